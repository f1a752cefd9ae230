import type { HostId, OperationId } from "@torpor/contracts";
import { DRAINER, type OperationRow } from "@torpor/db";
import { describe, expect, test } from "vitest";
import { type DrainFacts, nextStep } from "../src/drains/next-step.ts";

const NOW = new Date("2030-01-01T00:00:00Z");
const before = (ms: number) => new Date(NOW.getTime() - ms);

const HERE = "here" as HostId;

type Given = Partial<Omit<DrainFacts, "drain" | "item" | "sandbox">> & {
  status?: DrainFacts["drain"]["status"];
  item?: Partial<DrainFacts["item"]>;
  state?: DrainFacts["sandbox"]["state"];
  hostId?: HostId | null;
  isHostLost?: boolean;
};

function step({
  status = "active",
  item = {},
  state = "running",
  hostId = HERE,
  isHostLost = false,
  ...given
}: Given) {
  return nextStep({
    drain: { hostId: HERE, status, isHostLost },
    item: {
      workingSince: null,
      progressedAt: null,
      owesResume: false,
      retryAt: null,
      attempts: 0,
      error: null,
      ...item,
    },
    sandbox: { state, hostId },
    executing: undefined,
    waiting: undefined,
    own: undefined,
    isStored: false,
    storeError: null,
    othersGrewAt: null,
    now: NOW,
    ...given,
  });
}

const operation = (given: Partial<OperationRow>) =>
  ({
    id: "op",
    kind: "pause",
    status: "executing",
    requestedBy: DRAINER,
    pinnedHostId: null,
    createdAt: before(1_000),
    cancelRequestedAt: null,
    endedAt: null,
    error: null,
    ...given,
  }) as OperationRow;
const ended = (given: Partial<OperationRow>) =>
  operation({ status: "failed", endedAt: NOW, error: { code: "E", message: "e" }, ...given });
const users = { requestedBy: "api-key:1" };
const atWork = { workingSince: before(1), progressedAt: before(1) };
const paused = { ...atWork, owesResume: true };

describe("what runs", () => {
  test("waits for a place, is paused with one, and is done on another host", () => {
    expect(step({})).toEqual({ do: "take_place" });
    expect(step({ item: atWork })).toEqual({ do: "pause" });
    expect(step({ item: paused, hostId: "there" as HostId })).toEqual({
      do: "end",
      outcome: "moved",
    });
  });

  test("NS3: and was to be paused stays, with the reason, and is tried again later each time", () => {
    const own = ended({ error: { code: "PAUSE_FAILED", message: "no room" } });
    const first = step({ item: paused, own });
    expect(first).toMatchObject({ do: "fail", error: { code: "PAUSE_FAILED" } });
    const later = step({ item: { ...paused, attempts: 3 }, own });
    if (first.do !== "fail" || later.do !== "fail") throw new Error("it is not tried again");
    expect(later.retryAt.getTime()).toBeGreaterThan(first.retryAt.getTime());
  });

  test("again, because its user resumed it, stays for now", () => {
    expect(
      step({ item: paused, own: operation({ status: "succeeded", endedAt: NOW }) }),
    ).toMatchObject({
      do: "fail",
      error: { code: "SANDBOX_RESUMED" },
    });
  });
});

describe("what the drain has paused", () => {
  test("NS2: is copied, then resumed on whatever host takes it", () => {
    expect(step({ item: paused, state: "paused" })).toEqual({ do: "copy" });
    expect(step({ item: paused, state: "paused", isStored: true })).toEqual({
      do: "resume",
      isPinned: false,
    });
  });

  test("goes straight from host to host when it cannot be copied to the store", () => {
    const storeError = { code: "REPLICATION_FAILED", message: "no route" };
    expect(step({ item: paused, state: "paused", storeError })).toEqual({
      do: "resume",
      isPinned: false,
    });
  });

  test("is resumed where it was when it cannot be copied, or no other host could resume it", () => {
    const stalled = { ...paused, progressedAt: before(600_000) };
    expect(step({ item: stalled, state: "paused" })).toMatchObject({
      do: "resume",
      isPinned: true,
      error: { code: "NOT_REPLICATED" },
    });
    const own = ended({ kind: "resume" });
    expect(step({ item: paused, state: "paused", isStored: true, own })).toMatchObject({
      do: "resume",
      isPinned: true,
      error: { code: "E" },
    });
  });

  test("is not resumed again at once when that failed, and anywhere after some failures", () => {
    const own = ended({ kind: "resume" });
    const retryAt = new Date(NOW.getTime() + 1);
    expect(step({ item: { ...paused, retryAt }, state: "paused", isStored: true, own })).toEqual({
      do: "wait",
    });
    expect(
      step({ item: { ...paused, attempts: 2 }, state: "paused", isStored: true, own }),
    ).toMatchObject({ isPinned: false });
    expect(
      step({ item: { ...paused, attempts: 2 }, state: "paused", own }),
      "it is nowhere else",
    ).toMatchObject({ isPinned: true });
  });
});

describe("a resume of the drain's that waits for another host", () => {
  const explain = { message: "No host has 512 MiB of memory left." };
  const resume = operation({
    kind: "resume",
    status: "waiting",
    explain,
    createdAt: before(46_000),
  });
  const given = { item: paused, state: "paused", waiting: resume, own: resume } as const;

  test("is brought home after 45 s, with the reason", () => {
    expect(step(given)).toEqual({
      do: "pin",
      operationId: "op",
      error: { code: "NO_CAPACITY_ELSEWHERE", message: explain.message },
    });
    expect(step({ ...given, waiting: { ...resume, createdAt: before(44_000) } })).toEqual({
      do: "wait",
    });
    expect(
      step({ ...given, waiting: { ...resume, pinnedHostId: HERE } }),
      "it is to stay already",
    ).toEqual({ do: "wait" });
    expect(
      step({ ...given, executing: { ...resume, status: "executing" }, waiting: undefined }),
      "it has begun",
    ).toEqual({ do: "wait" });
  });

  test("waits on when it is not there any more, or its host is lost", () => {
    expect(step({ ...given, hostId: null })).toEqual({ do: "wait" });
    for (const status of ["active", "undoing"] as const)
      expect(step({ ...given, status, isHostLost: true })).toEqual({ do: "wait" });
  });
});

describe("the copy of what the drain has paused", () => {
  test("has its time from the end of the pause, however long that took", () => {
    const item = { ...paused, workingSince: before(600_000), progressedAt: before(600_000) };
    const own = operation({ status: "succeeded", endedAt: before(1_000) });
    expect(step({ item, own, state: "paused" })).toEqual({ do: "copy" });
    const stalled = { item, own: { ...own, endedAt: before(300_000) }, state: "paused" } as const;
    expect(step(stalled)).toMatchObject({ error: { code: "NOT_REPLICATED" } });
    expect(
      step({ ...stalled, othersGrewAt: before(1_000) }),
      "others are copied before it",
    ).toEqual({ do: "copy" });
  });
});

describe("on a host that is lost", () => {
  const isHostLost = true;
  test("NS4: what the drain has paused is resumed elsewhere from the store, and nothing else is asked for", () => {
    expect(step({ isHostLost, item: paused, state: "paused", isStored: true })).toEqual({
      do: "resume",
      isPinned: false,
    });
    expect(
      step({ isHostLost, item: paused, state: "paused", isStored: true, status: "undoing" }),
    ).toEqual({
      do: "resume",
      isPinned: false,
    });
    expect(
      step({ isHostLost, item: paused, state: "paused" }),
      "its snapshot is there alone",
    ).toEqual({ do: "wait" });
    for (const state of ["running", "paused", "stopped"] as const)
      expect(step({ isHostLost, item: atWork, state })).toEqual({ do: "wait" });
    expect(step({ isHostLost, item: paused, hostId: "there" as HostId })).toEqual({
      do: "end",
      outcome: "moved",
    });
    expect(step({ isHostLost, item: paused, status: "undoing" }), "it runs there again").toEqual({
      do: "end",
      outcome: "returned",
    });
  });
});

describe("what its owner has paused or stopped", () => {
  test.each(["paused", "stopped"] as const)("leaves once it has a place: %s", (state) => {
    expect(step({ state })).toEqual({ do: "take_place" });
    expect(step({ state, item: atWork })).toEqual({ do: "release" });
    expect(step({ state, hostId: null })).toEqual({ do: "end", outcome: "released" });
    expect(step({ state, item: { ...atWork, progressedAt: before(600_000) } })).toMatchObject({
      do: "fail",
      error: { code: "NOT_REPLICATED" },
    });
  });
});

test("what its owner has paused cannot leave a host that has no store, and says so at once", () => {
  const storeError = { code: "NO_SNAPSHOT_STORE", message: "none" };
  expect(step({ state: "paused", item: atWork, storeError })).toMatchObject({
    do: "fail",
    error: storeError,
  });
  const before = { code: "REPLICATION_FAILED", message: "of an earlier try" };
  expect(step({ state: "paused", item: atWork, storeError: before })).toEqual({ do: "release" });
});

describe("somebody else's operation", () => {
  test("NS1: goes first, and frees the place of a sandbox that the drain has not paused", () => {
    expect(step({ executing: operation(users) })).toEqual({ do: "wait", giveBack: true });
    expect(
      step({
        item: paused,
        executing: operation({}),
        own: operation({}),
        waiting: operation({ ...users, id: "users" as OperationId, kind: "resume" }),
      }),
    ).toEqual({ do: "wait" });
  });

  test("is what was the drain's and a user has joined, and what another drain has asked for: neither is taken back", () => {
    const undoing = { status: "undoing", item: { ...paused, owesResume: false } } as const;
    expect(step({ ...undoing, executing: operation(users), own: operation(users) })).toEqual({
      do: "wait",
      giveBack: true,
    });
    expect(
      step({
        ...undoing,
        executing: operation({ id: "other" as OperationId }),
        own: operation({}),
      }),
    ).toEqual({ do: "wait", giveBack: true });
  });

  test("that took the drain's one back is no failure of the sandbox's", () => {
    const own = operation({
      status: "superseded",
      endedAt: NOW,
      error: { code: "OPERATION_SUPERSEDED", message: "" },
    });
    expect(step({ item: paused, own })).toMatchObject({
      do: "fail",
      error: { code: "SANDBOX_RESUMED" },
    });
    expect(
      step({ item: paused, state: "paused", isStored: true, own: { ...own, kind: "resume" } }),
    ).toEqual({
      do: "resume",
      isPinned: false,
    });
  });

  test("had no part in what its host has given up by itself: that is a failure", () => {
    const resume = ended({ kind: "resume", status: "cancelled" });
    const given = { item: paused, state: "paused", isStored: true } as const;
    expect(step({ ...given, own: resume })).toMatchObject({
      do: "resume",
      isPinned: true,
      error: { code: "E" },
    });
    expect(step({ ...given, own: { ...resume, cancelRequestedAt: NOW } })).toEqual({
      do: "resume",
      isPinned: false,
    });
    expect(step({ item: paused, own: ended({ status: "cancelled" }) })).toMatchObject({
      do: "fail",
      error: { code: "E" },
    });
  });

  test("a delete is the end of it", () => {
    expect(step({ state: "deleting" })).toEqual({ do: "end", outcome: "gone" });
  });
});

describe("a drain that has ended early", () => {
  const undoing = "undoing" as const;
  test("leaves alone what it has not paused", () => {
    for (const state of ["running", "paused", "stopped", "error"] as const)
      expect(step({ status: undoing, state })).toEqual({ do: "end", outcome: "returned" });
    expect(step({ status: undoing, executing: operation(users) })).toEqual({
      do: "wait",
      giveBack: true,
    });
  });

  test("takes its pause back, and resumes where it was what is paused already", () => {
    expect(
      step({ status: undoing, item: paused, executing: operation({}), own: operation({}) }),
    ).toEqual({ do: "resume", isPinned: true });
    expect(step({ status: undoing, item: paused, state: "paused", isStored: true })).toEqual({
      do: "resume",
      isPinned: true,
    });
    expect(step({ status: undoing, item: paused })).toEqual({ do: "end", outcome: "returned" });
  });

  test("keeps a resume that waits for another host where it is, and lets go on one that has begun", () => {
    const resume = operation({ kind: "resume" });
    expect(
      step({
        status: undoing,
        item: paused,
        waiting: { ...resume, status: "waiting" },
        own: resume,
        state: "paused",
      }),
    ).toEqual({
      do: "pin",
      operationId: "op",
    });
    expect(
      step({
        status: undoing,
        item: paused,
        executing: resume,
        own: resume,
        state: "resuming",
        hostId: "there" as HostId,
      }),
    ).toEqual({
      do: "wait",
    });
    expect(step({ status: undoing, item: paused, hostId: "there" as HostId })).toEqual({
      do: "end",
      outcome: "moved",
    });
  });
});
