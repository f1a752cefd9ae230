/**
 * Delete, in every state (S10, S11, S18): the tombstone is set at once, the command is repeated
 * until the host confirms, and nothing stays reserved.
 */
import { NO_OPERATION_ID, type OperationId, type SandboxId } from "@torpor/contracts";
import { inTransaction } from "@torpor/db";
import { makeSandbox, moveSandbox, type Databases, sharedPostgres } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Decisions, SNAPSHOT } from "./support/decisions.ts";

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

interface Made {
  id: SandboxId;
  /** The operation that executes when the delete comes. */
  executing?: OperationId;
}

const stopped = async (): Promise<Made> => {
  const { id } = await scheduler.running();
  await scheduler.complete((await scheduler.begin(id, "stop")).id, { state: "stopped" });
  return { id };
};
const during = async (
  made: Made,
  verb: "pause" | "resume" | "stop" | "start",
  committed = false,
): Promise<Made> => {
  const { id: executing } = await scheduler.begin(made.id, verb);
  if (committed) expect(await scheduler.commit(executing)).toBe(true);
  return { id: made.id, executing };
};

const overdue = async () => {
  await scheduler.database
    .sql`UPDATE sandboxes SET updated_at = now() - interval '1 minute' WHERE state = 'deleting'`;
};
const remindHosts = async () => {
  await scheduler.round("collect-owed-deletions");
};
const timesTold = async (id: SandboxId) =>
  (await scheduler.commands({ sandboxId: id, kind: "delete" })).length;
/** A deleted sandbox whose host has received no command. */
const deletedOn = async (hostId: string) => {
  const sandbox = await makeSandbox(scheduler.database, "paused", { hostId });
  await inTransaction(scheduler.database.db, (tx) =>
    moveSandbox(tx, { sandbox, to: "deleting", fact: "delete_accepted" }),
  );
  return sandbox.id;
};

const STATES: Record<string, () => Promise<Made>> = {
  "creating on a host": async () => {
    const create = await scheduler.beginCreate();
    return { id: create.sandboxId, executing: create.id };
  },
  running: () => scheduler.running(),
  pausing: async () => during(await scheduler.running(), "pause"),
  "pausing, past the point of no return": async () =>
    during(await scheduler.running(), "pause", true),
  paused: () => scheduler.paused(),
  resuming: async () => during(await scheduler.paused(), "resume"),
  "resuming, past the point of no return": async () =>
    during(await scheduler.paused(), "resume", true),
  stopping: async () => during(await scheduler.running(), "stop"),
  stopped,
  starting: async () => during(await stopped(), "start"),
  error: async () => {
    const { id } = await scheduler.running();
    const pause = await scheduler.begin(id, "pause");
    await scheduler.complete(pause.id, {
      state: "failed",
      operation: { id: pause.id, outcome: "failed" },
    });
    return { id };
  },
};

describe("a sandbox is deleted while it is", () => {
  test.each(Object.entries(STATES))("%s", async (name, make) => {
    const { id, executing } = await make();
    if (name === "error") expect(await scheduler.sandbox(id)).toMatchObject({ state: "error" });
    const deletion = await scheduler.begin(id, "delete");
    expect(deletion).toMatchObject({ status: "succeeded" });
    const tombstone = await scheduler.sandbox(id);
    expect(tombstone).toMatchObject({ state: "deleting", hostId: "host-1", expiresAt: null });
    expect(tombstone.endedAt).not.toBeNull();
    expect(await scheduler.commands({ operationId: deletion.id })).toMatchObject([
      { kind: "delete", opSeq: tombstone.opSeq, epoch: tombstone.epoch },
    ]);
    if (executing !== undefined) {
      expect(await scheduler.operation(executing)).toMatchObject({
        status: "cancelled",
        error: { code: "OPERATION_SUPERSEDED" },
      });
      expect(await scheduler.commit(executing)).toBe(false);
      const late = await scheduler.seenOf(executing, { state: "running" });
      expect(await scheduler.apply(late), "what it still reports").toBe("stale");
    }
    expect(await scheduler.apply(await scheduler.seenOf(deletion.id, { state: "deleted" }))).toBe(
      "applied",
    );
    expect(await scheduler.sandbox(id)).toMatchObject({
      state: "deleted",
      hostId: null,
      holdsMemory: false,
    });
    for (const { used, sum } of await scheduler.used()) expect(used).toEqual(sum);
  });

  test("waiting for a place: nobody has to be told, and it is gone at once", async () => {
    const create = await scheduler.beginCreate({ region: "nowhere" });
    const deletion = await scheduler.begin(create.sandboxId, "delete");
    expect(deletion).toMatchObject({ status: "succeeded" });
    expect(await scheduler.operation(create.id)).toMatchObject({ status: "superseded" });
    expect(await scheduler.sandbox(create.sandboxId)).toMatchObject({
      state: "deleted",
      hostId: null,
    });
    expect(await scheduler.commands({ sandboxId: create.sandboxId, kind: "delete" })).toEqual([]);
  });

  test("deleted by others, too: it is not there any more", async () => {
    const { id } = await scheduler.running();
    await scheduler.begin(id, "delete");
    await expect(scheduler.begin(id, "delete")).rejects.toThrow("not_found");
  });
});

test("S11, S15: a host that has not confirmed is told again, as often as it takes, and no more once it has", async () => {
  const { id } = await scheduler.paused();
  const deletion = await scheduler.begin(id, "delete");
  const remind = async () => {
    await overdue();
    await remindHosts();
    return await timesTold(id);
  };
  expect([await remind(), await remind()]).toEqual([2, 3]);
  const [first, again] = await scheduler.commands({ sandboxId: id, kind: "delete" });
  expect([again?.epoch, again?.opSeq]).toEqual([first?.epoch, first?.opSeq]);
  await scheduler.apply(
    await scheduler.seenOf(deletion.id, {
      state: "deleted",
      operation: { id: again?.operationId ?? NO_OPERATION_ID, outcome: "succeeded" },
    }),
  );
  expect(await remind()).toBe(3);
});

test("a reminder is one in its interval, however many schedulers look", async () => {
  const { id } = await scheduler.paused();
  await scheduler.begin(id, "delete");
  await overdue();
  await Promise.all(Array.from({ length: 4 }, remindHosts));
  await remindHosts();
  expect(await timesTold(id)).toBe(2);
});

test("a lost host is told nothing until it is back, and keeps no other from being told, however much it owes", async () => {
  await scheduler.join("host-2", { capacity: { vcpu: 200, memoryMib: 12_800, diskMib: 12_800 } });
  const owed = await Promise.all(Array.from({ length: 101 }, () => deletedOn("host-2")));
  const live = await deletedOn("host-1");
  await overdue();
  await scheduler.database
    .sql`UPDATE sandboxes SET updated_at = now() - interval '1 hour' WHERE host_id = 'host-2'`;
  await scheduler.lose("host-2");
  await remindHosts();
  expect(await timesTold(live)).toBe(1);
  expect(await Promise.all(owed.map(timesTold))).toEqual(owed.map(() => 0));
  await scheduler.join("host-2");
  for (let rounds = 0; rounds < 2; rounds += 1) await remindHosts();
  expect(
    await Promise.all(owed.map(timesTold)),
    "each round goes on where the one before ended",
  ).toEqual(owed.map(() => 1));
});

test("a snapshot of a deleted sandbox is no longer counted as there", async () => {
  const { id } = await scheduler.running();
  await scheduler.complete((await scheduler.begin(id, "pause")).id, {
    state: "paused",
    snapshot: { ...SNAPSHOT, storeKey: "stored" },
  });
  const deletion = await scheduler.begin(id, "delete");
  await scheduler.apply(await scheduler.seenOf(deletion.id, { state: "deleted" }));
  expect(
    await scheduler.database
      .sql`SELECT 1 FROM snapshots WHERE sandbox_id = ${id} AND dropped_at IS NULL`,
  ).toHaveLength(0);
});
