/**
 * A sandbox on its way from one host to another: which host holds what until it has arrived, and
 * how it returns when it does not arrive.
 */
import assert from "node:assert/strict";
import { type HostId, type Observation, snapshotTicket } from "@torpor/contracts";
import {
  changeHost,
  findHost,
  findSnapshot,
  listDrainProgress,
  listEvents,
  type OperationRow,
  requestDrain,
  type SandboxRow,
} from "@torpor/db";
import { anObservation, type aSandbox, type Databases, sharedPostgres } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { drainHosts } from "../src/drains/drain-hosts.ts";
import { beginOperation } from "../src/operations/begin-operation.ts";
import { expireOperation } from "../src/operations/expire-operation.ts";
import { releaseFromHost, requestReplication } from "../src/hosts/release.ts";
import { restoreLostRuns } from "../src/hosts/restore-lost-runs.ts";
import { Decisions, SNAPSHOT } from "./support/decisions.ts";

const HOME = "home" as HostId;

let server: Databases;
beforeAll(() => {
  server = sharedPostgres();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

const ROOM = {
  capacity: { vcpu: 100, memoryMib: 6400, diskMib: 6400 },
  dataPlaneUrl: "http://home:9401",
  ticketKey: "ab".repeat(32),
  fence: { isAlive: true },
};
const UNREACHABLE = {
  code: "SNAPSHOT_UNAVAILABLE",
  message: "The snapshot could not be brought to this host.",
};

/** A sandbox that was paused on `home`, and is being resumed on `away`. */
class Journey implements AsyncDisposable {
  readonly scheduler: Decisions;
  /** The sandbox as it was paused. */
  readonly paused: SandboxRow;
  readonly resume: OperationRow;

  private constructor(scheduler: Decisions, paused: SandboxRow, resume: OperationRow) {
    this.scheduler = scheduler;
    this.paused = paused;
    this.resume = resume;
  }

  static async begin(
    storeKey: string | null,
    given: Parameters<typeof aSandbox>[0] = {},
  ): Promise<Journey> {
    const scheduler = await Decisions.over(server);
    await scheduler.join("home", ROOM);
    const paused = await scheduler.paused(storeKey, given);
    await changeHost(scheduler.database.db, HOME, "cordon", "test");
    await scheduler.join("away", ROOM);
    const resume = await scheduler.begin(paused.id, "resume");
    assert.deepEqual(
      [resume.status, resume.hostId, resume.originHostId],
      ["executing", "away", "home"],
    );
    return new Journey(scheduler, paused, resume);
  }

  get db() {
    return this.scheduler.database.db;
  }

  async sandbox(): Promise<SandboxRow> {
    return await this.scheduler.sandbox(this.paused.id);
  }

  /** `away` reports that the resume failed. */
  async fail(): Promise<void> {
    const { id } = this.resume;
    const operation = { id, outcome: "failed", error: UNREACHABLE } as const;
    assert.equal(
      await this.scheduler.apply(await this.scheduler.seenOf(id, { state: "failed", operation })),
      "applied",
    );
  }

  async comeBack(how: "fails" | "expires"): Promise<void> {
    if (how === "fails") await this.fail();
    else assert(await expireOperation(this.scheduler.deps, this.resume));
    const { state, hostId, holdsMemory } = await this.sandbox();
    assert.deepEqual([state, hostId, holdsMemory], ["paused", "home", false]);
  }

  async diskUsed(): Promise<Record<string, number>> {
    const used = await this.scheduler.used();
    for (const host of used) assert.deepEqual(host.used, host.sum, host.id);
    return Object.fromEntries(used.map((host) => [host.id, host.used[2] ?? 0]));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.diskUsed();
    await this.scheduler[Symbol.asyncDispose]();
  }
}

describe("while it is on its way", () => {
  test("its disk is reserved on both hosts, until it runs on the new one", async () => {
    await using journey = await Journey.begin("stored");
    expect(await journey.diskUsed()).toEqual({ home: 16, away: 16 });
    await journey.scheduler.complete(journey.resume.id, { state: "running" });
    expect(await journey.diskUsed()).toEqual({ home: 0, away: 16 });
  });

  test.each(["fails", "expires"] as const)(
    "nothing else takes its place at home: when it %s, it comes back to it",
    async (how) => {
      await using journey = await Journey.begin("stored");
      const { scheduler } = journey;
      await scheduler.database
        .sql`UPDATE hosts SET disk_mib_capacity = 16, state = 'ready' WHERE id = 'home'`;
      await scheduler.database.sql`UPDATE hosts SET state = 'cordoned' WHERE id = 'away'`;
      expect(await scheduler.beginCreate()).toMatchObject({
        status: "waiting",
        explain: { reasons: { disk: 1 } },
      });
      await journey.comeBack(how);
      expect(await journey.diskUsed()).toEqual({ home: 16, away: 0 });
      expect(await scheduler.operation(journey.resume.id)).toMatchObject({ status: "failed" });
    },
  );

  test("one that was seen to wait, and is begun elsewhere before it expires, comes back as well", async () => {
    await using scheduler = await Decisions.over(server);
    await scheduler.join("home", ROOM);
    const { id } = await scheduler.paused("stored");
    await changeHost(scheduler.database.db, HOME, "cordon", "test");
    const seen = await scheduler.begin(id, "resume");
    expect(seen).toMatchObject({ status: "waiting" });
    await scheduler.join("away", ROOM);
    expect(await beginOperation(scheduler.deps, seen.id)).toEqual({ kind: "begun" });
    expect(await expireOperation(scheduler.deps, seen)).toBe(true);
    expect(await scheduler.sandbox(id)).toMatchObject({
      state: "paused",
      hostId: "home",
      originHostId: null,
      holdsMemory: false,
    });
    expect(await scheduler.commands({ sandboxId: id, kind: "cancel" })).toMatchObject([
      { hostId: "away", cancels: seen.id },
    ]);
    for (const host of await scheduler.used()) expect(host.used, host.id).toEqual(host.sum);
  });

  test.each(["stored", null])(
    "with its new host lost it is back at home at once, whatever the store has (%s)",
    async (storeKey) => {
      await using journey = await Journey.begin(storeKey);
      const { scheduler, resume } = journey;
      await scheduler.lose("away");
      await scheduler.round("note-lost-contact");
      expect(await scheduler.operation(resume.id)).toMatchObject({
        status: "failed",
        error: { code: "HOST_LOST" },
      });
      expect(await journey.sandbox()).toMatchObject({
        state: "paused",
        hostId: "home",
        originHostId: null,
      });
      await changeHost(journey.db, HOME, "uncordon", "test");
      expect(await scheduler.begin(journey.paused.id, "resume")).toMatchObject({
        status: "executing",
        hostId: "home",
      });
    },
  );

  test.each(["fails", "expires"] as const)(
    "one that a scheduler of an older version has sent off, and that %s, is let back in",
    async (how) => {
      await using journey = await Journey.begin("stored");
      const { sql } = journey.scheduler.database;
      // The state that 0.1.0 leaves: the capacity at home is freed, and then taken.
      await sql`UPDATE sandboxes SET origin_host_id = NULL WHERE id = ${journey.paused.id}`;
      await sql`UPDATE hosts SET disk_mib_used = 0, disk_mib_capacity = 16, state = 'ready' WHERE id = 'home'`;
      await sql`UPDATE hosts SET state = 'cordoned' WHERE id = 'away'`;
      expect(await journey.scheduler.beginCreate()).toMatchObject({
        status: "executing",
        hostId: "home",
      });
      await journey.comeBack(how);
      expect(await journey.diskUsed(), "what lies there lies there").toEqual({ home: 32, away: 0 });
      expect(await findHost(journey.db, HOME)).toMatchObject({ diskMibCapacity: 32 });
    },
  );

  test("its host is neither retired nor drained: it may have the only copy", async () => {
    await using journey = await Journey.begin(null);
    const { scheduler, db } = journey;
    await requestDrain(
      db,
      HOME,
      { maxParallel: 1, maxBytesPerSecond: null, deadlineAt: null },
      "test",
    );
    await drainHosts(scheduler.deps);
    expect((await listDrainProgress(db, [HOME])).get(HOME)).toMatchObject({
      drain: { status: "active" },
      total: 1,
    });
    expect(await changeHost(db, HOME, "retire", "test")).toMatchObject({
      kind: "has_sandboxes",
      sandboxes: 1,
    });
    await journey.fail();
    // Once the sandbox is back, the drain has to handle it.
    for (let round = 0; round < 2; round += 1) await drainHosts(scheduler.deps);
    expect(
      await scheduler.commands({ sandboxId: journey.paused.id, kind: "replicate" }),
    ).toMatchObject([{ hostId: "home" }]);
  });

  test("once it has arrived, a drain of its old host has moved it", async () => {
    await using journey = await Journey.begin(null);
    await requestDrain(
      journey.db,
      HOME,
      { maxParallel: 1, maxBytesPerSecond: null, deadlineAt: null },
      "test",
    );
    await drainHosts(journey.scheduler.deps);
    await journey.scheduler.complete(journey.resume.id, { state: "running" });
    await drainHosts(journey.scheduler.deps);
    expect((await listDrainProgress(journey.db, [HOME])).get(HOME)).toMatchObject({
      drain: { status: "done" },
      ended: { moved: 1 },
    });
    expect(await changeHost(journey.db, HOME, "retire", "test")).toMatchObject({ kind: "moved" });
  });

  test("off a host that is full it finds its place there again, full as it is", async () => {
    await using scheduler = await Decisions.over(server);
    await scheduler.join("home", { ...ROOM, capacity: { vcpu: 1, memoryMib: 64, diskMib: 32 } });
    const { id } = await scheduler.paused();
    await scheduler.running();
    await scheduler.join("away", ROOM);
    const resume = await scheduler.begin(id, "resume");
    expect(resume).toMatchObject({ hostId: "away", originHostId: "home" });
    const { snapshot } = await scheduler.command(resume.id);
    const { generation = 0, manifestSha256 = "" } = snapshot ?? {};
    expect(snapshot).toMatchObject({
      storeKey: null,
      sourceUrl: ROOM.dataPlaneUrl,
      sourceHostId: "home",
      sourceTicket: snapshotTicket(ROOM.ticketKey, { sandboxId: id, generation, manifestSha256 }),
    });
    const operation = { id: resume.id, outcome: "failed", error: UNREACHABLE } as const;
    await scheduler.apply(await scheduler.seenOf(resume.id, { state: "failed", operation }));
    expect(await scheduler.sandbox(id)).toMatchObject({ state: "paused", hostId: "home" });
    expect(await scheduler.used()).toMatchObject([
      { id: "away", used: [0, 0, 0], sum: [0, 0, 0] },
      { id: "home", used: [1, 64, 32], sum: [1, 64, 32] },
    ]);
    expect(await scheduler.begin(id, "resume")).toMatchObject({ hostId: "away", epoch: 3 });
  });

  test("a delete gives back what it held on either host", async () => {
    await using journey = await Journey.begin("stored");
    const deletion = await journey.scheduler.begin(journey.paused.id, "delete");
    expect(await journey.diskUsed(), "the new host owes the clean-up").toEqual({
      home: 0,
      away: 16,
    });
    await journey.scheduler.apply(
      await journey.scheduler.seenOf(deletion.id, { state: "deleted" }),
    );
    expect(await journey.diskUsed()).toEqual({ home: 0, away: 0 });
  });
});

describe("what is left of a move on the host that it did not get to", () => {
  const discards = async ({ scheduler, paused }: Journey) =>
    await scheduler.commands({ sandboxId: paused.id, kind: "discard" });
  /** `away` has fetched the whole snapshot, but the run was refused. */
  const whole = async ({ scheduler, resume }: Journey, given: Partial<typeof SNAPSHOT> = {}) =>
    await scheduler.seenOf(resume.id, { state: "paused", snapshot: { ...SNAPSHOT, ...given } });

  test("a part is nothing to discard: the next fetch goes on with it", async () => {
    await using journey = await Journey.begin("stored");
    await journey.comeBack("expires");
    const operation = { id: journey.resume.id, outcome: "cancelled", error: UNREACHABLE } as const;
    const late = await journey.scheduler.seenOf(journey.resume.id, { state: "failed", operation });
    for (let heartbeat = 0; heartbeat < 2; heartbeat += 1)
      expect(await journey.scheduler.apply(late)).toBe("stale");
    expect(await discards(journey)).toEqual([]);
  });

  test("a whole copy is kept for the next try, which has the same snapshot", async () => {
    await using journey = await Journey.begin("stored");
    await journey.comeBack("expires");
    expect(await journey.scheduler.apply(await whole(journey))).toBe("foreign");
    expect(await discards(journey)).toEqual([]);
    const again = await journey.scheduler.begin(journey.paused.id, "resume");
    expect(again).toMatchObject({ hostId: "away", originHostId: "home", epoch: 3 });
    expect(
      await journey.scheduler.apply(await whole(journey)),
      "its old word settles nothing",
    ).toBe("stale");
    await journey.scheduler.complete(again.id, { state: "running" });
    expect(await journey.sandbox()).toMatchObject({ state: "running", hostId: "away" });
  });

  test("a whole copy is not kept for long, nor once the sandbox rests on something else", async () => {
    await using journey = await Journey.begin("stored");
    await journey.comeBack("fails");
    await journey.scheduler.apply(await whole(journey, { manifestSha256: "c".repeat(64) }));
    expect(await discards(journey), "it is another snapshot").toMatchObject([
      { hostId: "away", epoch: 2 },
    ]);
    await journey.scheduler.apply(await whole(journey));
    expect(await discards(journey)).toHaveLength(1);
    await journey.scheduler.database
      .sql`UPDATE incarnations SET assigned_at = now() - interval '2 hours'`;
    await journey.scheduler.apply(await whole(journey));
    expect(await discards(journey)).toHaveLength(2);
  });
});

describe("what its old host says of the copy that lies there", () => {
  const REFUSED = { code: "REPLICATION_FAILED", message: "The store is full." };
  let revision = 1_000;
  /** With the numbers from before the move: the host was not informed of newer ones. */
  const say = async (
    { scheduler, paused }: Journey,
    storeKey: string | null,
    given: Partial<Observation> = {},
  ) => {
    revision += 1;
    const { id: sandboxId, epoch, opSeq } = paused;
    const snapshot = { ...SNAPSHOT, storeKey };
    return await scheduler.apply(
      anObservation({
        hostId: HOME,
        sandboxId,
        epoch,
        opSeq,
        revision,
        state: "paused",
        snapshot,
        ...given,
      }),
    );
  };
  const facts = async ({ db, paused }: Journey) =>
    (await listEvents(db, paused.id, 100)).map(({ fact }) => fact);
  const snapshot = async ({ db, paused }: Journey) => await findSnapshot(db, paused.id);

  test.each(["fails", "expires"] as const)(
    "counts after a move that %s: it is stored, and can be released",
    async (how) => {
      await using journey = await Journey.begin(null);
      await journey.comeBack(how);
      const before = await journey.sandbox();
      expect(await requestReplication(journey.scheduler.deps, before)).toBe("requested");
      expect(await say(journey, "key/1-b")).toBe("applied");
      expect(await snapshot(journey)).toMatchObject({ storeKey: "key/1-b" });
      const { state, hostId, epoch } = await journey.sandbox();
      expect({ state, hostId, epoch }).toEqual({
        state: "paused",
        hostId: "home",
        epoch: before.epoch,
      });
      expect(await say(journey, "key/1-b")).toBe("stale");
      expect((await facts(journey)).filter((fact) => fact === "snapshot_stored")).toHaveLength(1);
      expect(await requestReplication(journey.scheduler.deps, await journey.sandbox())).toBe(
        "replicated",
      );
      expect(await releaseFromHost(journey.scheduler.deps, await journey.sandbox())).toBe(
        "released",
      );
    },
  );

  test("counts for a drain, which is done then", async () => {
    await using journey = await Journey.begin(null);
    await journey.comeBack("fails");
    await requestDrain(
      journey.db,
      HOME,
      { maxParallel: 1, maxBytesPerSecond: null, deadlineAt: null },
      "test",
    );
    for (let round = 0; round < 2; round += 1) await drainHosts(journey.scheduler.deps);
    await say(journey, "key/1-b");
    for (let round = 0; round < 2; round += 1) await drainHosts(journey.scheduler.deps);
    expect((await listDrainProgress(journey.db, [HOME])).get(HOME)).toMatchObject({
      drain: { status: "done" },
      ended: { released: 1 },
    });
  });

  test("that it cannot be stored is said too, until it is", async () => {
    await using journey = await Journey.begin(null);
    await journey.comeBack("fails");
    expect(await say(journey, null, { replicationFailed: REFUSED })).toBe("applied");
    expect(await snapshot(journey)).toMatchObject({ storeKey: null, storeError: REFUSED });
    expect(await say(journey, null, { replicationFailed: REFUSED })).toBe("stale");
    expect(await say(journey, "key/1-b")).toBe("applied");
    expect(await snapshot(journey)).toMatchObject({ storeKey: "key/1-b", storeError: null });
    expect((await facts(journey)).slice(-2)).toEqual(["snapshot_not_stored", "snapshot_stored"]);
  });

  test("is nothing, when it is of another snapshot", async () => {
    await using journey = await Journey.begin(null);
    await journey.comeBack("fails");
    const before = await journey.scheduler.record(journey.paused.id);
    const other = { ...SNAPSHOT, manifestSha256: "c".repeat(64), storeKey: "key/1-c" };
    expect(await say(journey, null, { snapshot: other })).toBe("stale");
    expect(await journey.scheduler.record(journey.paused.id)).toEqual(before);
  });

  test("counts while it is on its way: the new host is lost, and it is restored from the store", async () => {
    await using journey = await Journey.begin(null, { onHostLoss: "restore" });
    expect(await say(journey, "key/1-b")).toBe("foreign");
    await journey.scheduler.complete(journey.resume.id, { state: "running" });
    await journey.scheduler.join("third", ROOM);
    await journey.scheduler.lose("away");
    expect(await restoreLostRuns(journey.scheduler.deps, 10)).toEqual({ lost: 1, restored: 1 });
    expect(await journey.sandbox()).toMatchObject({ state: "resuming", hostId: "third" });
  });
});
