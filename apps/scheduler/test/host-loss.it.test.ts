/**
 * The sandboxes of a host that falls silent: which wait, which are restored elsewhere and from
 * what, and which commands a returning host gets.
 */
import {
  type HostId,
  NO_OPERATION_ID,
  type OperationId,
  type RegisterRequest,
  type SandboxId,
  unverifiedHostId,
} from "@torpor/contracts";
import {
  acceptRequest,
  findIncarnation,
  findSnapshot,
  listEvents,
  patchSandbox,
  renewLease,
  type SandboxRow,
} from "@torpor/db";
import { aHost, anObservation, aRequester, type Databases, sharedPostgres } from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { handleLease, handleRegister, handleThaw } from "../src/hosts/handle-host-requests.ts";
import { beginOperation } from "../src/operations/begin-operation.ts";
import { restoreLostRuns } from "../src/hosts/restore-lost-runs.ts";
import { Decisions, HOST_TERMS, SNAPSHOT } from "./support/decisions.ts";

const HOST_1 = "host-1" as HostId;

let server: Databases;
let scheduler: Decisions;
beforeAll(() => {
  server = sharedPostgres();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});
beforeEach(async () => {
  scheduler = await Decisions.over(server);
});
afterEach(async () => {
  await scheduler[Symbol.asyncDispose]();
});

const FENCED: Partial<RegisterRequest> = { fence: { isAlive: true } };
const RESTORE = { onHostLoss: "restore" } as const;

/** A sandbox that runs on host-1, after a pause there; host-2 is free. */
async function runs(
  given: {
    storeKey?: string | null;
    host?: Partial<RegisterRequest>;
    sandbox?: Parameters<Decisions["running"]>[0];
  } = {},
) {
  const { storeKey = "stored-1", host = FENCED, sandbox = RESTORE } = given;
  await scheduler.join("host-1", host);
  const id = await runsAgain(storeKey, sandbox);
  await scheduler.join("host-2", FENCED);
  return await scheduler.sandbox(id);
}

async function runsAgain(
  storeKey: string | null,
  sandbox: Parameters<Decisions["running"]>[0],
): Promise<SandboxId> {
  const { id } = await scheduler.paused(storeKey, sandbox);
  await scheduler.complete((await scheduler.begin(id, "resume")).id, { state: "running" });
  return id;
}

const reconcile = async (name: string) => await scheduler.round(name);
/** The newest command of that kind about the sandbox. */
const told = async (sandboxId: SandboxId, kind: string) => {
  const command = (await scheduler.commands({ sandboxId, kind })).at(-1);
  if (command === undefined) throw new Error(`no host was told to ${kind} ${sandboxId}`);
  return command;
};
const restoreAll = () => restoreLostRuns(scheduler.deps, 100);
const events = async (id: SandboxId) => await listEvents(scheduler.database.db, id, 100);
const factsOf = async (id: SandboxId) => (await events(id)).map(({ fact }) => fact);
const thaw = async ({ id }: Pick<SandboxRow, "id">, hostId: string, epoch: number) =>
  await handleThaw(scheduler.deps, hostId, {
    type: "thaw",
    version: 1,
    hostId: unverifiedHostId(hostId),
    sandboxId: id,
    epoch,
  });
const capacityIsRight = async () => {
  for (const { id, used, sum } of await scheduler.used()) expect(used, id).toEqual(sum);
};

describe("a run that is to be restored", () => {
  test("is resumed from its newest stored snapshot, used as it is, by a new run on another host, and its owner is told from when", async () => {
    const sandbox = await runs();
    await scheduler.lose("host-1");
    expect(await restoreAll()).toEqual({ lost: 1, restored: 1 });
    const after = await scheduler.sandbox(sandbox.id);
    expect(after).toMatchObject({
      state: "resuming",
      hostId: "host-2",
      epoch: 3,
      holdsMemory: true,
    });
    const loss = (await events(sandbox.id)).find(({ fact }) => fact === "host_lost");
    expect(loss).toMatchObject({
      fromState: "running",
      toState: "paused",
      cause: { code: "HOST_LOST" },
    });
    const snapshot = await findSnapshot(scheduler.database.db, sandbox.id);
    expect(snapshot).toMatchObject({ generation: 1, storeKey: "stored-1" });
    expect(loss?.cause?.message).toContain(`snapshot 1 of ${snapshot?.createdAt.toISOString()}`);
    expect(loss?.cause?.message).toMatch(/\d+ s ago; what it did after that is lost/);
    const [resume] = await scheduler
      .commands({ sandboxId: sandbox.id, kind: "resume" })
      .then((all) => all.slice(-1));
    expect(resume).toMatchObject({
      hostId: "host-2",
      epoch: 3,
      snapshot: { generation: 1, storeKey: "stored-1" },
    });
    const operation = await scheduler.operation(resume?.operationId ?? NO_OPERATION_ID);
    expect(operation).toMatchObject({
      requestedBy: "system:host-loss",
      kind: "resume",
      status: "executing",
    });
    expect(await findIncarnation(scheduler.database.db, sandbox.id, 2)).toMatchObject({
      cause: "host_lost",
      endedAt: expect.any(Date) as Date,
    });
    await scheduler.complete(operation.id, { state: "running" });
    expect(await scheduler.sandbox(sandbox.id)).toMatchObject({
      state: "running",
      hostId: "host-2",
    });
    await capacityIsRight();
    expect(await restoreAll()).toEqual({ lost: 0, restored: 0 });
  });

  test("is started from the disk that is its newest stored one, again when that fails, and never resumed without a memory", async () => {
    await scheduler.join("host-1", FENCED);
    const { id } = await scheduler.running(RESTORE);
    const disk = { ...SNAPSHOT, storeKey: "stored-disk" };
    await scheduler.complete((await scheduler.begin(id, "stop")).id, {
      state: "stopped",
      snapshot: disk,
    });
    await scheduler.complete((await scheduler.begin(id, "start")).id, { state: "running" });
    await scheduler.join("host-2", FENCED);
    await scheduler.lose("host-1");
    expect(await restoreAll()).toEqual({ lost: 1, restored: 1 });
    expect(await scheduler.sandbox(id)).toMatchObject({
      state: "starting",
      hostId: "host-2",
      epoch: 3,
    });
    expect((await events(id)).find(({ fact }) => fact === "host_lost")).toMatchObject({
      toState: "stopped",
      cause: { code: "HOST_LOST", message: expect.stringContaining("its disk alone") as string },
    });
    const start = await told(id, "start");
    expect(start).toMatchObject({ hostId: "host-2", snapshot: { storeKey: "stored-disk" } });
    const error = { code: "SNAPSHOT_UNAVAILABLE", message: "The store is away." };
    const operation = { id: start.operationId, outcome: "failed", error } as const;
    await scheduler.apply(
      await scheduler.seenOf(start.operationId, { state: "failed", operation }),
    );
    expect(await scheduler.sandbox(id)).toMatchObject({ state: "stopped", hostId: null });
    expect(await reconcile("restore-again")).toEqual({ owed: 1, begun: 1 });
    await scheduler.complete((await told(id, "start")).operationId, { state: "running" });
    expect(await scheduler.sandbox(id)).toMatchObject({ state: "running", hostId: "host-2" });
    expect(await reconcile("restore-again")).toEqual({ owed: 0, begun: 0 });
    await capacityIsRight();
  });

  test("RL3: waits for the margin after the lease, and for a host that has room; its owner is told once", async () => {
    const sandbox = await runs();
    await scheduler.lose("host-1", HOST_TERMS.lossMarginMs - 1_000);
    expect(await restoreAll()).toEqual({ lost: 0, restored: 0 });
    await scheduler.lose("host-1");
    await scheduler.database.sql`UPDATE hosts SET memory_mib_capacity = 1 WHERE id = 'host-2'`;
    for (let round = 0; round < 2; round += 1)
      expect(await restoreAll()).toEqual({ lost: 1, restored: 0 });
    expect(await scheduler.sandbox(sandbox.id)).toMatchObject({
      state: "running",
      hostId: "host-1",
      epoch: 2,
    });
    const waits = (await events(sandbox.id)).filter(({ fact }) => fact === "restore_waits");
    expect(waits).toMatchObject([{ cause: { code: "RESOURCE_LIMIT_ERROR" } }]);
    expect(waits[0]?.cause?.message).toContain("1 have less than 64 MiB of memory free");
    expect(await thaw(sandbox, "host-1", 2), "silent").toMatchObject({ granted: false });
    await scheduler.join("host-1", FENCED);
    expect(await thaw(sandbox, "host-1", 2), "back before anybody else had it").toEqual({
      granted: true,
    });
  });

  test("RL3: of three with room for one, one is restored, and two stay their host's, which may come back", async () => {
    await scheduler.join("host-1", FENCED);
    const others = [await runsAgain("stored-2", RESTORE), await runsAgain("stored-3", RESTORE)];
    const lost = [await runs(), ...(await Promise.all(others.map((id) => scheduler.sandbox(id))))];
    await scheduler.lose("host-1");
    await scheduler.database.sql`UPDATE hosts SET memory_mib_capacity = 100 WHERE id = 'host-2'`;
    expect(await restoreAll()).toEqual({ lost: 3, restored: 1 });
    const after = await Promise.all(lost.map(({ id }) => scheduler.sandbox(id)));
    const on = (host: string) => after.filter(({ hostId }) => hostId === host).length;
    expect([on("host-1"), on("host-2")]).toEqual([2, 1]);
    await scheduler.join("host-1", FENCED);
    for (const { id, hostId } of after)
      expect(await thaw({ id }, "host-1", 2), hostId ?? "").toMatchObject({
        granted: hostId === "host-1",
      });
  });

  test.each([
    ["NOTHING_TO_RESTORE", { storeKey: null }],
    ["HOST_NOT_FENCED", {}],
    ["POLICY_NOT_IN_FORCE", { sandbox: {} }],
  ] as const)(
    "RL1: %s: it stays its host's, and an event says why, once per loss",
    async (code, given) => {
      const sandbox = await runs(given);
      const { db, organizationId } = scheduler.database;
      await patchSandbox(db, sandbox.id, organizationId, RESTORE);
      if (code === "HOST_NOT_FENCED") await renewLease(db, HOST_1, 1_000, false);
      await scheduler.lose("host-1", 10_000);
      for (let round = 0; round < 2; round += 1)
        expect(await restoreAll()).toEqual({ lost: 1, restored: 0 });
      expect(await scheduler.sandbox(sandbox.id)).toMatchObject({
        state: "running",
        hostId: "host-1",
        epoch: 2,
      });
      const told = async () =>
        (await events(sandbox.id)).filter(({ fact }) => fact === "restore_impossible");
      expect(await told()).toMatchObject([{ cause: { code } }]);
      const [first] = await told();
      await scheduler.database
        .sql`UPDATE sandbox_events SET occurred_at = now() - interval '1 hour' WHERE seq = ${first?.seq ?? 0}`;
      await restoreAll();
      expect(await told(), "another loss").toHaveLength(2);
    },
  );

  test("whose policy is to wait is left alone, and so is one that stands still", async () => {
    const waiting = await runs({ sandbox: {} });
    const paused = await scheduler.paused("stored-2", { ...RESTORE, region: "local" });
    await scheduler.lose("host-1");
    await scheduler.lose("host-2");
    expect(await restoreAll()).toEqual({ lost: 0, restored: 0 });
    expect(await scheduler.sandbox(waiting.id)).toMatchObject({ state: "running" });
    expect(await scheduler.sandbox(paused.id)).toMatchObject({ state: "paused" });
  });

  test.each([
    ["pause", true],
    ["pause", false],
    ["stop", true],
  ] as const)(
    "a %s in flight (committed: %s) ends with the loss as its reason",
    async (verb, committed) => {
      const { id } = await runs();
      const operation = await scheduler.begin(id, verb);
      if (committed) await scheduler.commit(operation.id);
      await scheduler.lose("host-1");
      if (committed) await reconcile("note-lost-contact");
      expect((await scheduler.operation(operation.id)).status).toBe(
        committed ? "outcome_unknown" : "executing",
      );
      expect(await restoreAll()).toEqual({ lost: 1, restored: 1 });
      expect(await scheduler.operation(operation.id)).toMatchObject({
        status: "failed",
        error: { code: "HOST_LOST" },
      });
      expect(await scheduler.sandbox(id)).toMatchObject({ state: "resuming", hostId: "host-2" });
    },
  );

  test("goes back behind a later snapshot that never left its host, and the next one takes its number", async () => {
    const { id } = await runs();
    await scheduler.database.sql`UPDATE hosts SET state = 'cordoned' WHERE id = 'host-2'`;
    await scheduler.complete((await scheduler.begin(id, "pause")).id, {
      state: "paused",
      snapshot: { ...SNAPSHOT, generation: 2 },
    });
    await scheduler.complete((await scheduler.begin(id, "resume")).id, { state: "running" });
    await scheduler.database.sql`UPDATE hosts SET state = 'ready' WHERE id = 'host-2'`;
    await scheduler.lose("host-1");
    expect(await restoreAll()).toEqual({ lost: 1, restored: 1 });
    const [resume] = (await scheduler.commands({ sandboxId: id, kind: "resume" })).slice(-1);
    expect(resume).toMatchObject({ snapshot: { generation: 1 } });
    await scheduler.complete(resume?.operationId ?? NO_OPERATION_ID, { state: "running" });
    const manifestSha256 = "c".repeat(64);
    const again = { ...SNAPSHOT, generation: 2, manifestSha256 };
    await scheduler.complete((await scheduler.begin(id, "pause")).id, {
      state: "paused",
      snapshot: again,
    });
    expect(await findSnapshot(scheduler.database.db, id)).toMatchObject({
      generation: 2,
      manifestSha256,
      hostId: "host-2",
    });
  });

  test("RL4: a restore that fails leaves it paused, and is tried again, less and less often, until it runs", async () => {
    const { id } = await runs();
    await scheduler.lose("host-1");
    await restoreAll();
    expect(await reconcile("restore-again"), "it is under way").toEqual({ owed: 0, begun: 0 });
    const failing = async () => {
      const { operationId } = await told(id, "resume");
      const outcome = { operation: { id: operationId, outcome: "failed" as const, error: AWAY } };
      expect(
        await scheduler.apply(await scheduler.seenOf(operationId, { state: "failed", ...outcome })),
      ).toBe("applied");
      expect(await scheduler.sandbox(id)).toMatchObject({
        state: "paused",
        hostId: null,
        holdsMemory: false,
      });
    };
    await failing();
    expect(await thaw({ id }, "host-1", 2)).toMatchObject({ granted: false });
    const rounds = await Promise.all([reconcile("restore-again"), reconcile("restore-again")]);
    expect(
      rounds.reduce((sum, round) => sum + Number(round?.["begun"] ?? 0), 0),
      "once, whoever looks",
    ).toBe(1);
    expect(await scheduler.sandbox(id)).toMatchObject({
      state: "resuming",
      hostId: "host-2",
      epoch: 4,
    });
    await failing();
    expect(await reconcile("restore-again"), "not at once").toEqual({ owed: 0, begun: 0 });
    await scheduler.database
      .sql`UPDATE incarnations SET restore_due_at = now() - interval '1 second' WHERE restore_due_at IS NOT NULL`;
    expect(await reconcile("restore-again")).toEqual({ owed: 1, begun: 1 });
    const resume = await told(id, "resume");
    expect(await scheduler.operation(resume.operationId)).toMatchObject({
      requestedBy: "system:host-loss",
    });
    await scheduler.complete(resume.operationId, { state: "running" });
    expect(
      await scheduler.database.sql`SELECT 1 FROM incarnations WHERE restore_due_at IS NOT NULL`,
      "nothing is looked for",
    ).toEqual([]);
    await scheduler.complete((await scheduler.begin(id, "pause")).id, {
      state: "paused",
      snapshot: { ...SNAPSHOT, generation: 2 },
    });
    expect(await reconcile("restore-again"), "it ran: what was owed is done").toEqual({
      owed: 0,
      begun: 0,
    });
    await capacityIsRight();
  });

  test("is restored on a third host when the second is lost before it has begun", async () => {
    const { id } = await runs();
    await scheduler.lose("host-1");
    await restoreAll();
    await scheduler.lose("host-2");
    await reconcile("note-lost-contact");
    expect(await scheduler.sandbox(id)).toMatchObject({ state: "paused", hostId: null });
    expect(await reconcile("restore-again"), "no host has room").toEqual({ owed: 1, begun: 0 });
    await scheduler.join("host-3", FENCED);
    expect(await reconcile("restore-again")).toEqual({ owed: 1, begun: 1 });
    await scheduler.complete((await told(id, "resume")).operationId, { state: "running" });
    expect(await scheduler.sandbox(id)).toMatchObject({ state: "running", hostId: "host-3" });
  });

  test.each(["pause", "stop"] as const)(
    "is restored no more when its owner asks for a %s meanwhile",
    async (verb) => {
      const { id } = await runs();
      await scheduler.lose("host-1");
      await restoreAll();
      await scheduler.lose("host-2");
      await reconcile("note-lost-contact");
      const asked = await scheduler.ask(id, verb);
      expect(asked.kind).toBe(verb === "pause" ? "satisfied" : "accepted");
      await scheduler.join("host-3", FENCED);
      expect(await reconcile("restore-again")).toEqual({ owed: 0, begun: 0 });
    },
  );
});

const AWAY = { code: "SNAPSHOT_UNAVAILABLE", message: "The store does not answer." };

describe("a run that was given up", () => {
  test("RL5: is on no host: a stop that waited behind its pause is carried out elsewhere, and the host that comes back has no say", async () => {
    const { id } = await runs();
    const pause = await scheduler.begin(id, "pause");
    await scheduler.commit(pause.id);
    await scheduler.ask(id, "stop");
    await scheduler.lose("host-1");
    expect(await restoreAll()).toEqual({ lost: 1, restored: 1 });
    expect(await scheduler.sandbox(id)).toMatchObject({ state: "paused", hostId: null });
    await scheduler.join("host-1", FENCED);
    const frozen = {
      state: "running",
      operation: { id: pause.id, outcome: "failed", error: { code: "VM_FROZEN", message: "" } },
    } as const;
    expect(await scheduler.apply(await scheduler.seenOf(pause.id, frozen))).toBe("foreign");
    await scheduler.database.sql`UPDATE hosts SET state = 'cordoned' WHERE id = 'host-1'`;
    await reconcile("drive-waiting");
    const stop = await told(id, "stop");
    expect(stop).toMatchObject({
      hostId: "host-2",
      epoch: 3,
      snapshot: { generation: 1, storeKey: "stored-1" },
    });
    await scheduler.complete(stop.operationId, { state: "stopped" });
    expect(await scheduler.sandbox(id)).toMatchObject({ state: "stopped", hostId: "host-2" });
    await capacityIsRight();
  });

  test("does not run because a host says so that still holds its VM: a resume there that came to nothing has failed, and the sandbox is paused", async () => {
    const { id } = await runs();
    await scheduler.lose("host-1");
    await restoreAll();
    const first = (await told(id, "resume")).operationId;
    const failed = (operationId: OperationId) => ({
      operation: { id: operationId, outcome: "failed" as const, error: AWAY },
    });
    await scheduler.apply(await scheduler.seenOf(first, { state: "failed", ...failed(first) }));
    await scheduler.join("host-1", FENCED);
    await scheduler.database.sql`UPDATE hosts SET state = 'cordoned' WHERE id = 'host-2'`;
    const again = await scheduler.begin(id, "resume");
    expect(again).toMatchObject({ hostId: "host-1", epoch: 4 });
    expect(
      await scheduler.apply(
        await scheduler.seenOf(again.id, { state: "running", ...failed(again.id) }),
      ),
    ).toBe("applied");
    expect(await scheduler.sandbox(id)).toMatchObject({
      state: "paused",
      hostId: null,
      holdsMemory: false,
    });
    expect(await scheduler.operation(again.id)).toMatchObject({ status: "failed", error: AWAY });
    await capacityIsRight();
  });
});

test("a resume that failed has not succeeded, even where the sandbox runs", async () => {
  await scheduler.join("host-1");
  const { id } = await scheduler.paused();
  const resume = await scheduler.begin(id, "resume");
  const error = { code: "HOST_ERROR", message: "The guest agent did not answer." };
  await scheduler.complete(resume.id, {
    state: "running",
    operation: { id: resume.id, outcome: "failed", error },
  });
  expect(await scheduler.sandbox(id)).toMatchObject({ state: "running", hostId: "host-1" });
  expect(await scheduler.operation(resume.id)).toMatchObject({ status: "failed", error });
});

describe("a host that comes back", () => {
  test("after its sandbox was restored elsewhere: its VM stays frozen, and its copy is discarded once the new run is proven", async () => {
    const sandbox = await runs();
    await scheduler.lose("host-1");
    await restoreAll();
    await scheduler.join("host-1", FENCED);
    expect(await thaw(sandbox, "host-1", 2)).toMatchObject({
      granted: false,
      reason: "run 2 was given up for lost, and the sandbox goes on elsewhere",
    });
    const copy = anObservation({
      hostId: HOST_1,
      sandboxId: sandbox.id,
      state: "running",
      epoch: 2,
      opSeq: 3,
      revision: 99,
    });
    const discards = () => scheduler.commands({ sandboxId: sandbox.id, kind: "discard" });
    expect(await scheduler.apply(copy)).toBe("foreign");
    expect(await discards()).toEqual([]);
    const [resume] = (await scheduler.commands({ sandboxId: sandbox.id, kind: "resume" })).slice(
      -1,
    );
    await scheduler.complete(resume?.operationId ?? NO_OPERATION_ID, { state: "running" });
    expect(await scheduler.apply(copy)).toBe("foreign");
    expect(await discards()).toMatchObject([{ hostId: "host-1", epoch: 3 }]);
  });

  test("RL2: at the very moment of the decision is either back, or too late: never both", async () => {
    const sandbox = await runs();
    await scheduler.lose("host-1");
    const lease = {
      type: "lease",
      version: 1,
      hostId: HOST_1,
      fence: { isAlive: true },
    } as const;
    const [, { restored }] = await Promise.all([
      handleLease(scheduler.deps, "host-1", lease),
      restoreAll(),
    ]);
    expect((await thaw(sandbox, "host-1", 2)).granted).toBe(restored === 0);
    expect(await factsOf(sandbox.id)).toHaveLength(restored === 0 ? 7 : 9);
    await capacityIsRight();
  });

  test("is asked for who it is: nobody gets another host's VM, a deleted sandbox's, or one that was never begun", async () => {
    const sandbox = await runs();
    const request = {
      type: "thaw",
      version: 1,
      hostId: HOST_1,
      sandboxId: sandbox.id,
      epoch: 2,
    } as const;
    expect(await handleThaw(scheduler.deps, "host-1", request)).toEqual({ granted: true });
    expect(await handleThaw(scheduler.deps, "host-2", request)).toMatchObject({ granted: false });
    expect(await thaw(sandbox, "host-2", 2)).toMatchObject({ granted: false });
    expect(await thaw(sandbox, "host-1", 1)).toMatchObject({ granted: false });
    expect(await thaw(sandbox, "nowhere", 2)).toMatchObject({ granted: false });
    await scheduler.begin(sandbox.id, "delete");
    expect(await thaw(sandbox, "host-1", 2)).toEqual({
      granted: false,
      reason: "the sandbox was deleted",
    });
  });
});

describe("a paused sandbox whose origin is lost", () => {
  test("is resumed elsewhere when it is in the store, and waits for its origin when it is not", async () => {
    await scheduler.join("host-1");
    const [stored, local] = [await scheduler.paused("stored-1"), await scheduler.paused(null)];
    await scheduler.join("host-2");
    await scheduler.lose("host-1");
    const resume = await scheduler.begin(stored.id, "resume");
    expect(resume).toMatchObject({
      status: "executing",
      hostId: "host-2",
      originHostId: "host-1",
      epoch: 2,
    });
    await scheduler.complete(resume.id, { state: "running" });
    expect(await scheduler.begin(local.id, "resume")).toMatchObject({
      status: "waiting",
      explain: { reasons: { other_host: 1 } },
    });
    await capacityIsRight();
  });

  test("is given up by a host that is lost before it had resumed it: the operation ends at once, and the next goes elsewhere", async () => {
    await scheduler.join("host-1");
    const { id } = await scheduler.paused("stored-1");
    await scheduler.join("host-2");
    const resume = await scheduler.begin(id, "resume");
    expect(resume).toMatchObject({ hostId: "host-1" });
    await scheduler.lose("host-1");
    await reconcile("note-lost-contact");
    expect(await scheduler.operation(resume.id)).toMatchObject({
      status: "failed",
      error: { code: "HOST_LOST" },
    });
    expect(await scheduler.begin(id, "resume")).toMatchObject({ hostId: "host-2", epoch: 3 });
    expect(await scheduler.commit(resume.id)).toBe(false);
  });
});

describe("what a lost host was to do with a sandbox that the store has", () => {
  /** Stopped on host-1, with its disk in the store. */
  async function stopped(): Promise<SandboxId> {
    const { id } = await scheduler.running();
    await scheduler.complete((await scheduler.begin(id, "stop")).id, { state: "stopped" });
    const { epoch, opSeq } = await scheduler.sandbox(id);
    const copy = { ...SNAPSHOT, storeKey: "disk-1" };
    await scheduler.apply(
      anObservation({
        hostId: HOST_1,
        sandboxId: id,
        state: "stopped",
        epoch,
        opSeq,
        revision: 99,
        snapshot: copy,
      }),
    );
    return id;
  }

  test.each(["stop", "start"] as const)(
    "a %s that it has not committed is ended, and the next one goes elsewhere",
    async (verb) => {
      await scheduler.join("host-1");
      const id = verb === "stop" ? (await scheduler.paused("stored-1")).id : await stopped();
      await scheduler.join("host-2");
      const bound = await scheduler.begin(id, verb);
      expect(bound).toMatchObject({ status: "executing", hostId: "host-1" });
      await scheduler.lose("host-1");
      await reconcile("note-lost-contact");
      expect(await scheduler.operation(bound.id)).toMatchObject({
        status: "failed",
        error: { code: "HOST_LOST" },
      });
      expect(await scheduler.sandbox(id)).toMatchObject({
        state: verb === "stop" ? "paused" : "stopped",
        hostId: "host-1",
      });
      const next = await scheduler.begin(id, verb);
      expect(next).toMatchObject({ status: "executing", hostId: "host-2" });
      expect(await scheduler.command(next.id)).toMatchObject({ snapshot: { generation: 1 } });
      await scheduler.complete(next.id, { state: verb === "stop" ? "stopped" : "running" });
      expect(await scheduler.operation(next.id)).toMatchObject({ status: "succeeded" });
      await capacityIsRight();
    },
  );

  test.each(["committed", "stored nowhere"])("a stop that is %s is left to it", async (how) => {
    await scheduler.join("host-1");
    const { id } = await scheduler.paused(how === "committed" ? "stored-1" : null);
    await scheduler.join("host-2");
    const stop = await scheduler.begin(id, "stop");
    if (how === "committed") await scheduler.commit(stop.id);
    await scheduler.lose("host-1");
    await reconcile("note-lost-contact");
    expect((await scheduler.operation(stop.id)).status).toBe(
      how === "committed" ? "outcome_unknown" : "executing",
    );
  });
});

describe("hosts without a live fence", () => {
  test("get no sandbox that needs one, whoever else has room, until it is back", async () => {
    await scheduler.join("host-1", { fence: { isAlive: false } });
    const create = await scheduler.beginCreate(RESTORE);
    expect(create).toMatchObject({ status: "waiting", explain: { reasons: { no_fence: 1 } } });
    expect(await scheduler.beginCreate()).toMatchObject({ status: "executing" });
    const lease = { type: "lease", version: 1, hostId: HOST_1 } as const;
    await handleLease(scheduler.deps, "host-1", { ...lease, fence: { isAlive: true } });
    await beginOperation(scheduler.deps, create.id);
    expect(await scheduler.operation(create.id)).toMatchObject({
      status: "executing",
      hostId: "host-1",
    });
    expect((await scheduler.command(create.id)).spec).toMatchObject(RESTORE);
  });

  test("an agent that says nothing of a fence has none", async () => {
    const hasFence = async () =>
      (await scheduler.database.sql`SELECT has_fence FROM hosts WHERE id = 'host-1'`)[0]?.[
        "has_fence"
      ] as boolean;
    await scheduler.join("host-1", FENCED);
    expect(await hasFence()).toBe(true);
    await handleLease(scheduler.deps, "host-1", { type: "lease", version: 1, hostId: HOST_1 });
    expect(await hasFence()).toBe(false);
    await handleRegister(scheduler.deps, "host-1", aHost("host-1", FENCED), async () => {});
    expect(await hasFence()).toBe(true);
  });
});

test("what its owner has asked for and waits goes before the restore", async () => {
  const { id } = await runs();
  const pause = await scheduler.begin(id, "pause");
  await scheduler.commit(pause.id);
  const wake = await acceptRequest(
    scheduler.database.db,
    id,
    "resume",
    aRequester(scheduler.database),
  );
  if (wake.kind !== "accepted") throw new Error(wake.kind);
  await scheduler.lose("host-1");
  expect(await restoreAll()).toEqual({ lost: 1, restored: 1 });
  await beginOperation(scheduler.deps, wake.operation.id);
  expect(await scheduler.operation(wake.operation.id)).toMatchObject({
    status: "executing",
    hostId: "host-2",
    requestedBy: "api-key:1",
  });
});
