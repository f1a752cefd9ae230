/** Reports of hosts, in any order and any number of times, and how the scheduler applies them. */
import { type HostId, type OperationId, type SandboxId, unverifiedHostId } from "@torpor/contracts";
import { changeHost, findHost, findIncarnation, findSnapshot, listEvents } from "@torpor/db";
import { aHost, anObservation, type Databases, sharedPostgres } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { handleRegister } from "../src/hosts/handle-host-requests.ts";
import { expireOperation } from "../src/operations/expire-operation.ts";
import { HostNetworks } from "../src/hosts/host-networks.ts";
import { Decisions, SNAPSHOT } from "./support/decisions.ts";

const HOST_1 = "host-1" as HostId;

let server: Databases;
let scheduler: Decisions;
beforeAll(async () => {
  server = sharedPostgres();
  scheduler = await Decisions.over(server);
  await scheduler.join("host-1", { capacity: { vcpu: 100, memoryMib: 6400, diskMib: 6400 } });
});
afterAll(async () => {
  await scheduler[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
});

const cordon = async (hostId: string) =>
  await changeHost(scheduler.database.db, unverifiedHostId(hostId), "cordon", "test");
const OTHER_OPERATION = `op_${"0".repeat(32)}` as OperationId;

test("a host outside of the hosts' networks is not let in, and told so", async () => {
  const deps = { ...scheduler.deps, hostNetworks: new HostNetworks("10.0.0.0/8") };
  const ask = (dataPlaneUrl: string) =>
    handleRegister(deps, "host-9", aHost("host-9", { dataPlaneUrl }), async () => {});
  expect(await ask("http://169.254.169.254")).toMatchObject({
    granted: false,
    reason: expect.stringMatching(/HOST_NETWORKS/),
  });
  expect(await findHost(deps.db, "host-9" as HostId)).toBeUndefined();
});

describe("a sandbox's life", () => {
  test("each run is an incarnation with a new epoch, each command a higher number, each step an event without a gap", async () => {
    const { id, epoch, opSeq } = await scheduler.running();
    expect([epoch, opSeq]).toEqual([1, 1]);
    const pause = await scheduler.begin(id, "pause");
    expect(pause).toMatchObject({ status: "executing", hostId: "host-1", epoch: 1, opSeq: 2 });
    expect(await scheduler.complete(pause.id, { state: "paused", snapshot: SNAPSHOT })).toBe(
      "applied",
    );
    const resume = await scheduler.begin(id, "resume");
    expect(resume).toMatchObject({ status: "executing", epoch: 2, opSeq: 3 });
    expect((await scheduler.command(resume.id)).snapshot).toMatchObject({ generation: 1 });
    const { db } = scheduler.database;
    expect((await findIncarnation(db, id, 2))?.startedAt).toBeNull();
    await scheduler.complete(resume.id, { state: "running" });
    expect((await findIncarnation(db, id, 1))?.endedAt).not.toBeNull();
    expect((await findIncarnation(db, id, 2))?.startedAt).not.toBeNull();
    // The resume has consumed the snapshot.
    expect(await findSnapshot(db, id)).toBeUndefined();
    const events = await listEvents(db, id, 100);
    expect(events.map(({ seq }) => seq)).toEqual(events.map((_, at) => at + 1));
    expect(events.map(({ fact }) => fact)).toEqual([
      "accepted",
      "create_assigned",
      "running",
      "pause_assigned",
      "paused",
      "resume_assigned",
      "running",
    ]);
  });

  test("S7: a VMM that died by itself is seen, with its cause", async () => {
    const { id } = await scheduler.running();
    const cause = { code: "VMM_DIED", message: "It was killed." };
    const seen = anObservation({
      hostId: HOST_1,
      sandboxId: id,
      state: "stopped",
      revision: 1_000,
      cause,
    });
    expect(await scheduler.apply(seen)).toBe("applied");
    expect(await scheduler.sandbox(id)).toMatchObject({
      state: "stopped",
      error: cause,
      holdsMemory: false,
    });
    expect((await listEvents(scheduler.database.db, id, 100)).at(-1)).toMatchObject({
      fact: "stopped",
      cause,
    });
  });

  test("S55: the timeout stands still while the sandbox is paused and goes on where it stood", async () => {
    const { id, expiresAt } = await scheduler.running({ timeoutSeconds: 600 });
    expect(expiresAt).not.toBeNull();
    await scheduler.complete((await scheduler.begin(id, "pause")).id, {
      state: "paused",
      snapshot: SNAPSHOT,
    });
    const paused = await scheduler.sandbox(id);
    expect(paused.expiresAt).toBeNull();
    expect(paused.timeoutLeftMs).toBeLessThanOrEqual(600_000);
    await scheduler.database.sql`UPDATE sandboxes SET timeout_left_ms = 1000000 WHERE id = ${id}`;
    await scheduler.complete((await scheduler.begin(id, "resume")).id, { state: "running" });
    const resumed = await scheduler.sandbox(id);
    expect(resumed.timeoutLeftMs).toBeNull();
    expect(resumed.expiresAt?.getTime()).toBeGreaterThan(Date.now() + 900_000);
  });
});

describe("S28: an observation that comes twice, late or from elsewhere changes nothing", () => {
  test("a duplicate and a reordered one", async () => {
    const { id: create, sandboxId } = await scheduler.beginCreate();
    await scheduler.commit(create);
    const [older, newer] = [
      await scheduler.seenOf(create, { state: "failed" }),
      await scheduler.seenOf(create, { state: "running" }),
    ];
    expect(await scheduler.apply(newer)).toBe("applied");
    const before = await scheduler.record(sandboxId);
    expect([
      await scheduler.apply(newer),
      await scheduler.apply(older),
      await scheduler.apply(newer),
    ]).toEqual(["stale", "stale", "stale"]);
    expect(await scheduler.record(sandboxId)).toEqual(before);
  });

  test("one of before the newest command, and one of an earlier incarnation", async () => {
    const { id } = await scheduler.running();
    const first = await scheduler.begin(id, "pause");
    const paused = await scheduler.seenOf(first.id, { state: "paused", snapshot: SNAPSHOT });
    await scheduler.apply(paused);
    const resume = await scheduler.begin(id, "resume");
    const before = await scheduler.record(id);
    // A heartbeat repeats what was true before the command, with a revision of its own.
    expect(await scheduler.apply({ ...paused, revision: paused.revision + 500 })).toBe("stale");
    expect(await scheduler.apply({ ...paused, opSeq: 9, revision: paused.revision + 501 })).toBe(
      "stale",
    );
    expect(await scheduler.record(id)).toEqual(before);
    expect(await scheduler.complete(resume.id, { state: "running" })).toBe("applied");
  });

  test("the outcome of another operation, and one made while the host is still busy", async () => {
    const { id } = await scheduler.running();
    const pause = await scheduler.begin(id, "pause");
    const before = await scheduler.record(id);
    const ofAnother = await scheduler.seenOf(pause.id, {
      state: "running",
      operation: { id: OTHER_OPERATION, outcome: "failed" },
    });
    expect(await scheduler.apply(ofAnother)).toBe("stale");
    const busy = await scheduler.seenOf(pause.id, { state: "running", busyWith: pause.id });
    delete busy.operation;
    expect(await scheduler.apply(busy)).toBe("busy");
    expect(await scheduler.record(id)).toEqual(before);
    expect(await scheduler.complete(pause.id, { state: "paused", snapshot: SNAPSHOT })).toBe(
      "applied",
    );
  });

  test("one that the state machine does not allow, and one of a sandbox that nobody knows", async () => {
    const { id } = await scheduler.running();
    const before = await scheduler.record(id);
    expect(
      await scheduler.apply(
        anObservation({ hostId: HOST_1, sandboxId: id, state: "paused", revision: 1_000 }),
      ),
    ).toBe("refused");
    expect(await scheduler.record(id)).toEqual(before);
    expect(
      await scheduler.apply(
        anObservation({
          hostId: HOST_1,
          sandboxId: "1763309903rt5vs4lm" as SandboxId,
          state: "running",
        }),
      ),
    ).toBe("unknown_sandbox");
  });

  test("the same one handled by 10 schedulers at once is applied once", async () => {
    const { id } = await scheduler.running();
    const pause = await scheduler.begin(id, "pause");
    const seen = await scheduler.seenOf(pause.id, { state: "paused", snapshot: SNAPSHOT });
    const settled = await Promise.all(Array.from({ length: 10 }, () => scheduler.apply(seen)));
    expect(settled.toSorted()).toEqual(["applied", ...Array.from({ length: 9 }, () => "stale")]);
    expect(
      (await listEvents(scheduler.database.db, id, 100)).filter(({ fact }) => fact === "paused"),
    ).toHaveLength(1);
  });
});

describe("a failed transition leaves a sandbox where it was", () => {
  test.each([
    ["pause", "running", "running"],
    ["stop", "running", "running"],
    ["resume", "paused", "paused"],
    ["start", "stopped", "stopped"],
  ] as const)("a %s that its host reports as failed: %s again", async (verb, from, state) => {
    const { id } = from === "paused" ? await scheduler.paused() : await scheduler.running();
    if (from === "stopped")
      await scheduler.complete((await scheduler.begin(id, "stop")).id, { state: "stopped" });
    const operation = await scheduler.begin(id, verb);
    const error = { code: "PAUSE_FAILED", message: "It did not work." };
    const failed = await scheduler.seenOf(operation.id, {
      state,
      operation: { id: operation.id, outcome: "failed", error },
    });
    expect(await scheduler.apply(failed)).toBe("applied");
    expect(await scheduler.operation(operation.id)).toMatchObject({ status: "failed", error });
    expect(await scheduler.sandbox(id)).toMatchObject({
      state,
      settledState: state,
      holdsMemory: state === "running",
    });
  });

  test.each([
    ["pause", "running"],
    ["stop", "running"],
    ["resume", "paused"],
    ["start", "stopped"],
  ] as const)(
    "S16: a %s that is not committed by its deadline expires: %s again, and the host is told and refused",
    async (verb, from) => {
      const { id } = from === "paused" ? await scheduler.paused() : await scheduler.running();
      if (from === "stopped")
        await scheduler.complete((await scheduler.begin(id, "stop")).id, { state: "stopped" });
      const operation = await scheduler.begin(id, verb);
      expect(await expireOperation(scheduler.deps, operation)).toBe(true);
      expect(await scheduler.operation(operation.id)).toMatchObject({
        status: "failed",
        error: { code: "OPERATION_TIMEOUT" },
      });
      expect(await scheduler.sandbox(id)).toMatchObject({
        state: from,
        settledState: from,
        holdsMemory: from === "running",
        hostId: "host-1",
      });
      expect(await scheduler.commit(operation.id)).toBe(false);
      expect(await scheduler.commands({ sandboxId: id, kind: "cancel" })).toMatchObject([
        { hostId: "host-1", cancels: operation.id },
      ]);
      expect(await expireOperation(scheduler.deps, operation)).toBe(false);
    },
  );

  test("a host that gave the disk another name when its start expired is asked for that one from then on", async () => {
    const { id } = await scheduler.running();
    await scheduler.complete((await scheduler.begin(id, "stop")).id, {
      state: "stopped",
      snapshot: SNAPSHOT,
    });
    const expired = await scheduler.begin(id, "start");
    expect(await expireOperation(scheduler.deps, expired)).toBe(true);
    const error = { code: "START_FAILED", message: "It did not start." };
    const renamed = { ...SNAPSHOT, manifestSha256: "c".repeat(64) };
    const given = {
      state: "stopped",
      snapshot: renamed,
      operation: { id: expired.id, outcome: "failed", error },
    } as const;
    expect(await scheduler.apply(await scheduler.seenOf(expired.id, given))).toBe("applied");
    expect((await listEvents(scheduler.database.db, id, 100)).at(-1)).toMatchObject({
      fact: "disk_renamed",
    });
    expect(await scheduler.apply(await scheduler.seenOf(expired.id, given)), "it is known").toBe(
      "nothing_new",
    );
    const { manifestSha256 } = renamed;
    expect(await findSnapshot(scheduler.database.db, id)).toMatchObject({
      manifestSha256,
      hasMemory: false,
      storeKey: null,
    });
    expect(
      (await scheduler.command((await scheduler.begin(id, "start")).id)).snapshot,
    ).toMatchObject({ manifestSha256 });
  });

  test("a committed operation does not expire", async () => {
    const { id } = await scheduler.running();
    const pause = await scheduler.begin(id, "pause");
    await scheduler.commit(pause.id);
    expect(await expireOperation(scheduler.deps, pause)).toBe(false);
    expect(await scheduler.sandbox(id)).toMatchObject({ state: "pausing" });
  });

  test("S50: a create without a place expires with what was missing, and leaves nothing reserved", async () => {
    const create = await scheduler.beginCreate({ memoryMib: 1_000_000 });
    expect(create).toMatchObject({ status: "waiting", explain: { reasons: { memory: 1 } } });
    expect(await expireOperation(scheduler.deps, create)).toBe(true);
    const { error } = await scheduler.operation(create.id);
    expect(error).toMatchObject({ code: "RESOURCE_LIMIT_ERROR" });
    expect(error?.message).toContain("1 have less than 1000000 MiB of memory free");
    expect(await scheduler.sandbox(create.sandboxId)).toMatchObject({
      state: "error",
      hostId: null,
      holdsMemory: false,
    });
  });
});

describe("more than one host", () => {
  /**
   * A sandbox that is paused on a host of its own, which takes nothing new, with its snapshot in
   * the store, and its resume on another host.
   */
  let pairs = 0;
  async function movingResume() {
    pairs += 1;
    const [origin, target] = [`origin-${pairs}`, `target-${pairs}`];
    const region = `region-${pairs}`;
    await scheduler.join(origin, { region });
    const { id } = await scheduler.running({ region });
    await scheduler.complete((await scheduler.begin(id, "pause")).id, {
      state: "paused",
      snapshot: { ...SNAPSHOT, storeKey: "stored" },
    });
    await scheduler.join(target, {
      region,
      capacity: { vcpu: 1000, memoryMib: 100_000, diskMib: 100_000 },
    });
    await cordon(origin);
    const resume = await scheduler.begin(id, "resume");
    expect(resume).toMatchObject({ hostId: target, originHostId: origin });
    await cordon(target);
    return { id, origin, target, resume };
  }
  /** The origin's report of the copy that it still has. */
  const copyOn = (hostId: string, sandboxId: SandboxId) =>
    anObservation({
      hostId: unverifiedHostId(hostId),
      sandboxId,
      state: "paused",
      epoch: 1,
      opSeq: 2,
      revision: 1_000,
      snapshot: { ...SNAPSHOT, storeKey: "stored" },
    });

  test("a resume on another host that fails uncommitted moves the sandbox back to where its snapshot is", async () => {
    const { id, origin, resume } = await movingResume();
    const error = { code: "FETCH_FAILED", message: "The snapshot could not be fetched." };
    const failed = await scheduler.seenOf(resume.id, {
      state: "failed",
      operation: { id: resume.id, outcome: "failed", error },
    });
    expect(await scheduler.apply(failed)).toBe("applied");
    expect(await scheduler.sandbox(id)).toMatchObject({
      state: "paused",
      hostId: origin,
      holdsMemory: false,
    });
    expect(await scheduler.operation(resume.id)).toMatchObject({ status: "failed", error });
    expect(await findSnapshot(scheduler.database.db, id)).toMatchObject({
      hostId: origin,
      generation: 1,
    });
    for (const { id: host, used, sum } of await scheduler.used()) expect(used, host).toEqual(sum);
    await changeHost(scheduler.database.db, unverifiedHostId(origin), "uncordon", "test");
    expect(await scheduler.begin(id, "resume")).toMatchObject({ hostId: origin, epoch: 3 });
  });

  test("a stopped sandbox whose host takes nothing new starts on another, straight from the first; a start that fails leaves it where it was", async () => {
    const region = "region-of-stopped";
    await scheduler.join("stopped-here", { region });
    const { id } = await scheduler.running({ region });
    const disk = { ...SNAPSHOT, storeKey: null };
    await scheduler.complete((await scheduler.begin(id, "stop")).id, {
      state: "stopped",
      snapshot: disk,
    });
    expect(await findSnapshot(scheduler.database.db, id)).toMatchObject({
      hasMemory: false,
      storeKey: null,
    });
    await scheduler.join("starts-here", {
      region,
      capacity: { vcpu: 1000, memoryMib: 100_000, diskMib: 100_000 },
    });
    await cordon("stopped-here");
    const first = await scheduler.begin(id, "start");
    expect(first).toMatchObject({ hostId: "starts-here", originHostId: "stopped-here" });
    const { generation, manifestSha256 } = disk;
    const sourceUrl = "http://127.0.0.1:1";
    expect(await scheduler.commands({ sandboxId: id, kind: "start" })).toMatchObject([
      {
        hostId: "starts-here",
        snapshot: { generation, manifestSha256, storeKey: null, sourceUrl },
      },
    ]);
    const error = { code: "SNAPSHOT_UNAVAILABLE", message: "The other host does not answer." };
    const failed = {
      state: "stopped" as const,
      operation: { id: first.id, outcome: "failed" as const, error },
    };
    expect(await scheduler.apply(await scheduler.seenOf(first.id, failed))).toBe("applied");
    expect(await scheduler.sandbox(id)).toMatchObject({ state: "stopped", hostId: "stopped-here" });
    const second = await scheduler.begin(id, "start");
    expect(second).toMatchObject({ hostId: "starts-here" });
    await scheduler.complete(second.id, { state: "running" });
    expect(await scheduler.sandbox(id)).toMatchObject({ state: "running", hostId: "starts-here" });
    expect(await findSnapshot(scheduler.database.db, id)).toBeUndefined();
    await cordon("starts-here");
  });

  test("so does one that expires, and what its host reports afterwards moves nothing", async () => {
    const { id, origin, resume } = await movingResume();
    expect(await expireOperation(scheduler.deps, resume)).toBe(true);
    expect(await scheduler.sandbox(id)).toMatchObject({ state: "paused", hostId: origin });
    const before = await scheduler.record(id);
    expect(await scheduler.apply(await scheduler.seenOf(resume.id, { state: "running" }))).toBe(
      "foreign",
    );
    expect(await scheduler.record(id)).toEqual(before);
    for (const { id: host, used, sum } of await scheduler.used()) expect(used, host).toEqual(sum);
  });

  test("S30: the copy on the old host is kept until the new run has been allowed, then it is discarded", async () => {
    const { id, origin, resume } = await movingResume();
    const discards = () => scheduler.commands({ sandboxId: id, kind: "discard" });
    expect(await scheduler.apply(copyOn(origin, id))).toBe("foreign");
    expect(await discards()).toEqual([]);
    await scheduler.commit(resume.id);
    expect(await scheduler.apply(copyOn(origin, id))).toBe("foreign");
    expect(await discards(), "it may still fail").toEqual([]);
    await scheduler.apply(await scheduler.seenOf(resume.id, { state: "running" }));
    expect(await scheduler.apply(copyOn(origin, id))).toBe("foreign");
    expect(await discards()).toMatchObject([{ hostId: origin, epoch: 2 }]);
    expect(await scheduler.sandbox(id)).toMatchObject({ state: "running" });
  });

  test("what a host fetched for a resume that never ran is discarded there in the end, and a deleted sandbox everywhere", async () => {
    const { id, origin, target, resume } = await movingResume();
    await expireOperation(scheduler.deps, resume);
    await scheduler.database
      .sql`UPDATE incarnations SET assigned_at = now() - interval '2 hours' WHERE sandbox_id = ${id}`;
    expect(await scheduler.apply({ ...copyOn(target, id), epoch: 2, opSeq: 3 })).toBe("foreign");
    expect(await scheduler.commands({ sandboxId: id, kind: "discard" })).toMatchObject([
      { hostId: target, epoch: 2 },
    ]);
    const { id: deletion } = await scheduler.begin(id, "delete");
    await scheduler.apply(await scheduler.seenOf(deletion, { state: "deleted" }));
    await scheduler.apply(copyOn(origin, id));
    expect(
      (await scheduler.commands({ sandboxId: id, kind: "discard" })).map(({ hostId }) => hostId),
    ).toEqual([target, origin]);
  });
});
