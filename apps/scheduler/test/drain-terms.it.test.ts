/**
 * Terms of a drain's moves: how long a sandbox may wait, what is counted of it, and which
 * operations the drain leaves alone.
 */
import assert from "node:assert/strict";
import type { HostId, OperationId } from "@torpor/contracts";
import {
  changeHost,
  countSandboxes,
  listDrainsAtWork,
  listSandboxNeeds,
  listUnreplicated,
  type SandboxRow,
  listSandboxesToMove,
} from "@torpor/db";
import { type Databases, sharedPostgres } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { beginOperation } from "../src/operations/begin-operation.ts";
import { Ground, HERE, STORED } from "./support/ground.ts";

let server: Databases;
beforeAll(() => {
  server = sharedPostgres();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

const FULL = { capacity: { vcpu: 1, memoryMib: 32, diskMib: 6400 } };
const MIB = 1024 ** 2;

const first = ([sandbox]: SandboxRow[]): SandboxRow => {
  assert(sandbox !== undefined);
  return sandbox;
};

async function secondsLeft(ground: Ground, operationId: OperationId): Promise<number> {
  const [row] = await ground.scheduler.database
    .sql`SELECT extract(epoch FROM deadline_at - now())::float AS seconds FROM operations WHERE id = ${operationId}`;
  return Number(row?.["seconds"]);
}

describe("what the drain has paused", () => {
  test("goes back after 45 s in which no other host had room, however long its fetch might take, and says why", async () => {
    await using ground = await Ground.with(server, ["running"]);
    await ground.drain({ maxBytesPerSecond: 1024 });
    await ground.rounds();
    const id = await ground.pausedByDrain();
    await ground.scheduler.join("there", FULL);
    await ground.rounds();
    const { sql } = ground.scheduler.database;
    const waiting = async () => {
      const [row, ...more] =
        await sql`SELECT id, pinned_host_id FROM operations WHERE status = 'waiting'`;
      assert(row !== undefined && more.length === 0);
      return {
        id: row["id"] as OperationId,
        pinned_host_id: row["pinned_host_id"] as string | null,
      };
    };
    const { id: resumeId } = await waiting();
    await ground.rounds(1);
    expect(await waiting(), "it may wait for a while").toEqual({
      id: resumeId,
      pinned_host_id: null,
    });
    await sql`UPDATE operations SET created_at = created_at - interval '46 seconds' WHERE id = ${resumeId}`;
    await ground.rounds(1);
    expect(await waiting()).toEqual({ id: resumeId, pinned_host_id: "here" });
    expect(await secondsLeft(ground, resumeId), "nothing is fetched").toBeLessThan(46);
    await beginOperation(ground.scheduler.deps, resumeId);
    const home = await ground.only("resume", "here");
    await ground.scheduler.complete(home.id, { state: "running" });
    await ground.rounds();
    const error = { code: "NO_CAPACITY_ELSEWHERE", message: expect.stringMatching(/memory/) };
    expect((await ground.progress()).failures).toMatchObject([{ sandboxId: id, error }]);
  });

  test("has the time of its fetch although it had to wait for it, and although nothing of it was expected", async () => {
    await using ground = await Ground.with(server, ["paused"]);
    // When the drain begins, only the snapshot is left of the sandbox, and the store has it.
    const { id } = first(ground.sandboxes);
    const resume = await ground.scheduler.begin(id, "resume");
    expect(resume.hostId).toBe("here");
    await ground.drain({ maxBytesPerSecond: MIB });
    expect(await ground.progress()).toMatchObject({ total: 1, bytesTotal: 0 });
    await ground.scheduler.complete(resume.id, { state: "running" });
    await ground.rounds();
    const pause = await ground.only("pause", "here");
    const snapshot = {
      ...STORED,
      generation: 2,
      manifestSha256: "c".repeat(64),
      sizeBytes: 600 * MIB,
    };
    await ground.scheduler.complete(pause.id, { state: "paused", snapshot });
    await ground.rounds(1);
    expect(await ground.progress()).toMatchObject({
      bytesDone: 600 * MIB,
      bytesTotal: 600 * MIB,
      bytesEstimated: 0,
    });
    const moved = await ground.only("resume", "there");
    expect(await secondsLeft(ground, moved.id), "45 s to wait, 45 s to resume").toBeGreaterThan(
      680,
    );
  });
});

test("a round holds nothing of a drain that it does not change", async () => {
  await using ground = await Ground.with(server, ["running"]);
  await ground.drain();
  const [drain] = await listDrainsAtWork(ground.db);
  assert(drain !== undefined);
  await ground.scheduler.database.sql.begin(async (sql) => {
    await sql`SELECT 1 FROM drain_sandboxes FOR UPDATE`;
    await ground.db.transaction(async (tx) => {
      await tx.execute("SET LOCAL lock_timeout = '1s'");
      await listSandboxesToMove(tx, drain);
    });
  });
  expect(await ground.progress()).toMatchObject({ total: 1 });
});

test("what is paused on a draining host is copied by the drain alone, at its pace", async () => {
  await using ground = await Ground.with(server, []);
  const { id } = await ground.scheduler.paused(null);
  const { hostId } = await ground.sandbox(id);
  assert(hostId !== null);
  await ground.scheduler.database.sql`UPDATE sandboxes SET updated_at = now() - interval '1 hour'`;
  const listed = async () =>
    (await listUnreplicated(ground.db, 600_000, 10)).map((sandbox) => sandbox.id);
  expect(await listed()).toEqual([id]);
  await ground.scheduler.database.sql`UPDATE hosts SET state = 'draining' WHERE id = ${hostId}`;
  expect(await listed()).toEqual([]);
});

test("a sandbox on its way counts on the host that it may come back to, and needs another one when that is drained", async () => {
  await using ground = await Ground.with(server, ["paused"]);
  const { id } = first(ground.sandboxes);
  await changeHost(ground.db, HERE, "cordon", "test");
  await ground.scheduler.begin(id, "resume");
  expect(await ground.sandbox(id)).toMatchObject({ hostId: "there", originHostId: "here" });
  expect(Object.fromEntries(await countSandboxes(ground.db, [HERE, "there" as HostId]))).toEqual({
    here: { resuming: 1 },
    there: { resuming: 1 },
  });
  expect(await listSandboxNeeds(ground.db, HERE)).toMatchObject([
    { count: 1, runs: false, snapshotFingerprint: "scripted/1" },
  ]);
});
