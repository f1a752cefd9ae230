/**
 * Drains over a real database, round by round: hosts that a test controls, any number of
 * schedulers.
 */
import assert from "node:assert/strict";
import { unverifiedSandboxId } from "@torpor/contracts";
import {
  changeHost,
  endDrain,
  findHost,
  listDrainsAtWork,
  listHostEvents,
  recordHeartbeats,
  type SandboxRow,
  listSandboxesToMove,
} from "@torpor/db";
import { aHeartbeat, type Databases, sharedPostgres } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { beginOperation } from "../src/operations/begin-operation.ts";
import { drainHosts } from "../src/drains/drain-hosts.ts";
import { drainSandbox } from "../src/drains/drain-sandbox.ts";
import { SNAPSHOT } from "./support/decisions.ts";
import { Ground, HERE, ROOM, STORED } from "./support/ground.ts";

let server: Databases;
beforeAll(() => {
  server = sharedPostgres();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

const idOf = (sandbox: SandboxRow | undefined) => sandbox?.id ?? unverifiedSandboxId("");

describe("a drain", () => {
  test("moves what runs one by one, releases what is paused, and leaves an empty, cordoned host", async () => {
    await using ground = await Ground.with(server, ["running", "running", "paused"]);
    await ground.drain();
    for (let step = 0; step < 12; step += 1) {
      await ground.rounds();
      const away = (
        await Promise.all(ground.sandboxes.slice(0, 2).map(({ id }) => ground.sandbox(id)))
      ).filter(({ state }) => state !== "running");
      expect(away.length, "unavailable at once").toBeLessThanOrEqual(1);
      for (const { id, kind } of await ground.executing())
        await ground.scheduler.complete(
          id,
          kind === "pause" ? { state: "paused", snapshot: STORED } : { state: "running" },
        );
    }
    expect(await ground.progress()).toMatchObject({
      drain: { status: "done" },
      total: 3,
      ended: { moved: 2, released: 1 },
      failures: [],
    });
    for (const { id } of ground.sandboxes.slice(0, 2))
      expect(await ground.sandbox(id)).toMatchObject({ state: "running", hostId: "there" });
    const released = idOf(ground.sandboxes[2]);
    expect(await ground.sandbox(released)).toMatchObject({ state: "paused", hostId: null });
    expect(await ground.scheduler.commands({ sandboxId: released, kind: "discard" })).toMatchObject(
      [{ hostId: "here" }],
    );
    expect(await findHost(ground.db, HERE)).toMatchObject({ state: "cordoned", diskMibUsed: 0 });
    const facts = (await listHostEvents(ground.db, HERE, 100)).map(
      ({ fact, toState, requestedBy }) => [fact, toState, requestedBy],
    );
    expect(facts.slice(-2)).toEqual([
      ["drain_started", "draining", "test"],
      ["drained", "cordoned", "system:drain"],
    ]);
    expect(await ground.scheduler.begin(released, "resume"), "from the store").toMatchObject({
      hostId: "there",
    });
  });

  test("DN1, DN2: is driven by several schedulers at once without one sandbox more than its budget", async () => {
    await using ground = await Ground.with(server, [
      "running",
      "running",
      "running",
      "running",
      "running",
    ]);
    await ground.drain({ maxParallel: 2 });
    for (let round = 0; round < 3; round += 1)
      await Promise.all([1, 2, 3, 4].map(() => drainHosts(ground.scheduler.deps)));
    const pauses = await ground.executing();
    expect(pauses.map(({ kind, requestedBy }) => [kind, requestedBy])).toEqual([
      ["pause", "system:drain"],
      ["pause", "system:drain"],
    ]);
    expect(await ground.progress()).toMatchObject({ working: 2, total: 5 });
  });

  test("pauses nothing that has nowhere to go, says so, and goes on when there is room", async () => {
    await using ground = await Ground.with(server, ["running"], {
      capacity: { vcpu: 1, memoryMib: 32, diskMib: 6400 },
    });
    await ground.drain();
    await ground.rounds();
    expect(await ground.executing()).toEqual([]);
    const { failures, working } = await ground.progress();
    expect(working).toBe(0);
    expect(failures).toMatchObject([
      { error: { code: "NO_CAPACITY_ELSEWHERE", message: expect.stringMatching(/memory/) } },
    ]);
    await ground.scheduler.join("there", ROOM);
    await ground.letTimePass();
    await ground.rounds();
    await ground.only("pause", "here");
  });

  test("what it copies is bounded from the first byte on, and a resume elsewhere has the time that its bytes take", async () => {
    await using ground = await Ground.with(server, ["running"]);
    await ground.drain({ maxParallel: 2, maxBytesPerSecond: 2 * 1024 ** 2 });
    await ground.rounds();
    const pause = await ground.only("pause", "here");
    expect(await ground.scheduler.command(pause.id)).toMatchObject({
      kind: "pause",
      maxBytesPerSecond: 1024 ** 2,
    });
    await ground.pausedByDrain();
    await ground.rounds();
    const resume = await ground.only("resume", "there");
    expect(await ground.scheduler.command(resume.id)).toMatchObject({
      kind: "resume",
      maxBytesPerSecond: 1024 ** 2,
    });
    const [terms] = await ground.scheduler.database.sql`
      SELECT extract(epoch FROM deadline_at - o.created_at)::float AS seconds, bytes_total::int AS bytes FROM operations o, drain_sandboxes WHERE o.id = ${resume.id}`;
    expect(terms?.["bytes"]).toBeGreaterThan(0);
    expect(terms?.["seconds"]).toBeGreaterThan(44 + Number(terms?.["bytes"]) / 1024 ** 2);
  });

  test("gives a sandbox back whose resume elsewhere fails, says why, and moves the others", async () => {
    await using ground = await Ground.with(server, ["running", "running"]);
    await ground.drain();
    await ground.rounds();
    const first = await ground.pausedByDrain();
    await ground.rounds();
    const resume = await ground.only("resume", "there");
    const error = { code: "FETCH_FAILED", message: "The snapshot could not be fetched." };
    const failed = await ground.scheduler.seenOf(resume.id, {
      state: "failed",
      operation: { id: resume.id, outcome: "failed", error },
    });
    await ground.scheduler.apply(failed);
    await ground.rounds();
    // The host is draining, and takes nothing else.
    const home = await ground.only("resume", "here");
    expect(home.sandboxId).toBe(first);
    await ground.scheduler.complete(home.id, { state: "running" });
    await ground.rounds();
    expect((await ground.progress()).failures).toMatchObject([{ sandboxId: first, error }]);
    expect((await ground.only("pause", "here")).sandboxId).not.toBe(first);
  });

  test("copies what its host does not copy no longer than it grows", async () => {
    await using ground = await Ground.with(server, ["running"]);
    await ground.drain();
    await ground.rounds();
    const pause = await ground.only("pause", "here");
    await ground.scheduler.complete(pause.id, { state: "paused", snapshot: SNAPSHOT });
    await ground.rounds();
    expect(await ground.executing(), "it waits for the copy").toEqual([]);
    const { sql } = ground.scheduler.database;
    const stall = async () =>
      await sql`UPDATE drain_sandboxes SET progressed_at = now() - interval '1 hour'`;
    await sql`UPDATE operations SET ended_at = now() - interval '1 hour' WHERE id = ${pause.id}`;
    const copied = { sandboxId: pause.sandboxId, bytesDone: 5, bytesTotal: 10 };
    await stall();
    await recordHeartbeats(ground.db, [aHeartbeat("here", { replication: [copied] })]);
    await ground.rounds();
    expect(await ground.executing(), "it has grown").toEqual([]);
    expect(await ground.progress()).toMatchObject({ bytesDone: 5, bytesTotal: 10 });
    await stall();
    await recordHeartbeats(ground.db, [aHeartbeat("here", { replication: [copied] })]);
    await recordHeartbeats(ground.db, [
      aHeartbeat("there", { replication: [{ ...copied, bytesDone: 9 }] }),
    ]);
    await ground.rounds();
    const resume = await ground.only("resume", "here");
    await ground.scheduler.complete(resume.id, { state: "running" });
    await ground.rounds();
    expect((await ground.progress()).failures).toMatchObject([
      { error: { code: "NOT_REPLICATED" } },
    ]);
  });
});

describe("the bytes of a drain", () => {
  const MIB = 1024 ** 2;
  test("are expected, then counted as they are copied, and done when the sandbox has left", async () => {
    await using ground = await Ground.with(server, ["running", "running", "paused"]);
    await ground.drain();
    const [runs] = ground.sandboxes;
    assert(runs !== undefined);
    const expected = (runs.memoryMib + runs.diskMib) * MIB;
    expect(await ground.progress(), "what is in the store takes nothing").toMatchObject({
      bytesDone: 0,
      bytesTotal: 2 * expected,
      bytesEstimated: 2 * expected,
      drain: { bytesPerSecond: null },
    });
    while ((await ground.executing()).length === 0) await ground.rounds();
    const pause = await ground.only("pause", "here");
    await ground.scheduler.complete(pause.id, { state: "paused", snapshot: SNAPSHOT });
    const { sql } = ground.scheduler.database;
    const seen: number[] = [];
    for (const done of [1, 2, 3]) {
      const replication = [
        { sandboxId: pause.sandboxId, bytesDone: done * MIB, bytesTotal: 4 * MIB },
      ];
      await recordHeartbeats(ground.db, [aHeartbeat("here", { replication })]);
      await sql`UPDATE drains SET measured_at = measured_at - interval '4 seconds'`;
      await ground.rounds(1);
      const { bytesDone, bytesTotal, bytesEstimated, drain } = await ground.progress();
      expect([bytesTotal, bytesEstimated]).toEqual([expected + 4 * MIB, expected]);
      expect(drain.bytesPerSecond).toBeGreaterThan(0);
      expect(drain.bytesPerSecond).toBeLessThan(MIB);
      seen.push(bytesDone);
    }
    expect(seen).toEqual([MIB, 2 * MIB, 3 * MIB]);
    await ground.scheduler.apply(
      await ground.scheduler.seenOf(pause.id, { state: "paused", snapshot: STORED }),
    );
    await ground.rounds();
    await ground.scheduler.complete((await ground.only("resume", "there")).id, {
      state: "running",
    });
    await ground.rounds(1);
    expect(await ground.progress()).toMatchObject({
      ended: { moved: 1 },
      bytesDone: 4 * MIB,
      bytesTotal: expected + 4 * MIB,
    });
    await ground.drainAgain();
    expect(await ground.progress(), "a new budget is measured anew").toMatchObject({
      drain: { bytesPerSecond: null },
    });
    await endDrain(ground.db, HERE, { endsAs: "aborted", requestedBy: "test" });
    for (const { id } of await ground.executing())
      await ground.scheduler.complete(id, { state: "paused", snapshot: STORED });
    for (let step = 0; step < 3; step += 1) {
      await ground.rounds();
      for (const { id } of await ground.executing())
        await ground.scheduler.complete(id, { state: "running" });
    }
    expect(await ground.progress(), "what it has left is not counted").toMatchObject({
      drain: { status: "aborted" },
      bytesDone: 4 * MIB,
      bytesTotal: 4 * MIB,
      bytesEstimated: 0,
    });
  });
});

test("of a copy that was over before its host told of it counts what the snapshot took", async () => {
  await using ground = await Ground.with(server, ["running"]);
  await ground.drain();
  await ground.rounds();
  await ground.scheduler.complete((await ground.only("pause", "here")).id, {
    state: "paused",
    snapshot: { ...STORED, sizeBytes: 12_345 },
  });
  await ground.rounds(1);
  expect(await ground.progress()).toMatchObject({
    bytesDone: 12_345,
    bytesTotal: 12_345,
    bytesEstimated: 0,
  });
  await ground.scheduler.complete((await ground.only("resume", "there")).id, { state: "running" });
  await ground.rounds(1);
  expect(await ground.progress()).toMatchObject({
    drain: { status: "done" },
    bytesDone: 12_345,
    bytesTotal: 12_345,
  });
});

describe("what users do during a drain", () => {
  test("an operation of a user's is left to run, and the sandbox is moved afterwards as it is then", async () => {
    await using ground = await Ground.with(server, ["running"]);
    const id = idOf(ground.sandboxes[0]);
    const stop = await ground.scheduler.begin(id, "pause");
    await ground.drain();
    await ground.rounds();
    expect((await ground.only("pause", "here")).id).toBe(stop.id);
    await ground.scheduler.complete(stop.id, { state: "paused", snapshot: STORED });
    await ground.rounds();
    expect(await ground.sandbox(id)).toMatchObject({ state: "paused", hostId: null });
  });

  test("a resume takes the drain's pause back: it runs on, and the drain does not pause it again at once", async () => {
    await using ground = await Ground.with(server, ["running"]);
    const id = idOf(ground.sandboxes[0]);
    await ground.drain();
    await ground.rounds();
    const pause = await ground.only("pause", "here");
    const resume = await ground.scheduler.begin(id, "resume");
    expect(await ground.scheduler.commit(pause.id), "it was asked to back out").toBe(false);
    const backedOut = {
      state: "running",
      operation: { id: pause.id, outcome: "cancelled" },
    } as const;
    await ground.scheduler.apply(await ground.scheduler.seenOf(pause.id, backedOut));
    await beginOperation(ground.scheduler.deps, resume.id);
    expect(await ground.scheduler.operation(resume.id)).toMatchObject({ status: "succeeded" });
    await ground.rounds(3);
    expect(await ground.executing()).toEqual([]);
    expect(await ground.sandbox(id)).toMatchObject({ state: "running", hostId: "here" });
    expect(await ground.progress()).toMatchObject({ working: 0, failures: [{ sandboxId: id }] });
    await ground.letTimePass();
    await ground.rounds();
    await ground.only("pause", "here");
  });

  test.each(["while the drain pauses it", "once the drain has paused it"])(
    "who asks for a pause %s keeps it paused",
    async (when) => {
      await using ground = await Ground.with(server, ["running"]);
      const id = idOf(ground.sandboxes[0]);
      const ask = async () => await ground.scheduler.ask(id, "pause");
      await ground.drain();
      await ground.rounds();
      if (when.startsWith("while"))
        expect(await ask()).toMatchObject({ kind: "accepted", isNew: false });
      await ground.pausedByDrain();
      if (when.startsWith("once")) expect(await ask()).toMatchObject({ kind: "satisfied" });
      await ground.rounds(3);
      expect(await ground.sandbox(id)).toMatchObject({ state: "paused", hostId: null });
      expect(await ground.progress()).toMatchObject({
        drain: { status: "done" },
        ended: { released: 1 },
      });
    },
  );

  test("a resume that comes before the drain's pause has begun has it running on at once", async () => {
    await using ground = await Ground.with(server, ["running"]);
    const id = idOf(ground.sandboxes[0]);
    await ground.drain();
    await ground.roundThatDies();
    expect(
      await ground.scheduler.database
        .sql`SELECT kind, status FROM operations WHERE status = 'waiting'`,
    ).toEqual([{ kind: "pause", status: "waiting" }]);
    expect(await ground.scheduler.ask(id, "resume")).toEqual({
      kind: "satisfied",
      state: "running",
    });
    await ground.rounds();
    expect(await ground.executing()).toEqual([]);
    expect(await ground.progress()).toMatchObject({
      working: 0,
      failures: [{ sandboxId: id, error: { code: "SANDBOX_RESUMED" } }],
    });
  });

  test("who joins a pause of the drain's keeps it paused, although the drain is aborted then", async () => {
    await using ground = await Ground.with(server, ["running"]);
    const id = idOf(ground.sandboxes[0]);
    await ground.drain();
    await ground.rounds();
    const pause = await ground.only("pause", "here");
    expect(await ground.scheduler.ask(id, "pause")).toMatchObject({ operation: { id: pause.id } });
    await endDrain(ground.db, HERE, { endsAs: "aborted", requestedBy: "test" });
    await ground.rounds();
    await ground.scheduler.complete(pause.id, { state: "paused", snapshot: STORED });
    await ground.rounds();
    expect(await ground.sandbox(id)).toMatchObject({ state: "paused", hostId: "here" });
    expect(await ground.progress()).toMatchObject({ drain: { status: "aborted" } });
    expect(await ground.executing()).toEqual([]);
  });

  test("what may yet come back keeps the drain from its end, and its host from being retired", async () => {
    await using ground = await Ground.with(server, ["paused"]);
    const id = idOf(ground.sandboxes[0]);
    await changeHost(ground.db, HERE, "cordon", "test");
    const resume = await ground.scheduler.begin(id, "resume");
    expect(await ground.sandbox(id)).toMatchObject({ state: "resuming", hostId: "there" });
    expect(await changeHost(ground.db, HERE, "retire", "test")).toMatchObject({
      kind: "has_sandboxes",
      sandboxes: 1,
    });
    await ground.drain();
    await ground.rounds();
    expect(await ground.progress()).toMatchObject({ drain: { status: "active" }, total: 1 });
    const error = { code: "FETCH_FAILED", message: "The snapshot could not be fetched." };
    const failed = await ground.scheduler.seenOf(resume.id, {
      state: "failed",
      operation: { id: resume.id, outcome: "failed", error },
    });
    await ground.scheduler.apply(failed);
    await ground.rounds(3);
    expect(await ground.progress()).toMatchObject({
      drain: { status: "done" },
      total: 1,
      ended: { released: 1 },
    });
  });

  test("a delete ends it", async () => {
    await using ground = await Ground.with(server, ["running"]);
    const id = idOf(ground.sandboxes[0]);
    await ground.drain();
    await ground.rounds();
    const deletion = await ground.scheduler.begin(id, "delete");
    await ground.rounds();
    expect(await ground.progress(), "its host owes the clean-up").toMatchObject({
      drain: { status: "active" },
      ended: { gone: 1 },
    });
    await ground.scheduler.apply(await ground.scheduler.seenOf(deletion.id, { state: "deleted" }));
    await ground.rounds();
    expect(await ground.progress()).toMatchObject({ drain: { status: "done" } });
  });
});

describe("a host that is lost during its drain", () => {
  test("owes a sandbox nothing that it has paused and stored: it is resumed elsewhere; the rest waits for the host", async () => {
    await using ground = await Ground.with(server, ["running", "running"]);
    await ground.drain();
    await ground.rounds();
    const id = await ground.pausedByDrain();
    await ground.scheduler.lose("here");
    await ground.rounds(3);
    const resume = await ground.only("resume", "there");
    expect(resume.sandboxId).toBe(id);
    await ground.scheduler.complete(resume.id, { state: "running" });
    await ground.rounds(3);
    expect(await ground.executing()).toEqual([]);
    expect(await ground.progress()).toMatchObject({
      drain: { status: "active" },
      working: 0,
      ended: { moved: 1 },
    });
    expect(await findHost(ground.db, HERE)).toMatchObject({ state: "lost" });
  });
});

describe("a drain that ends early", () => {
  test("DN3: pauses nothing any more, by a scheduler neither that has read it while it was active", async () => {
    await using ground = await Ground.with(server, ["running"]);
    await ground.drain();
    const [drain] = await listDrainsAtWork(ground.db);
    assert(drain !== undefined);
    await endDrain(ground.db, HERE, { endsAs: "aborted", requestedBy: "test" });
    for (let time = 0; time < 2; time += 1)
      await drainSandbox(ground.scheduler.deps, drain, idOf(ground.sandboxes[0]));
    await listSandboxesToMove(ground.db, drain);
    await ground.rounds();
    expect(await ground.progress()).toMatchObject({
      drain: { status: "aborted" },
      total: 1,
      ended: { returned: 1 },
    });
    await listSandboxesToMove(ground.db, drain);
    await drainSandbox(ground.scheduler.deps, drain, idOf(ground.sandboxes[0]));
    expect(await ground.progress(), "nothing of it is begun again").toMatchObject({
      ended: { returned: 1 },
    });
    expect(await ground.executing()).toEqual([]);
  });

  test("abort: what it has paused runs again where it is, what it has not touched stays, the host is cordoned", async () => {
    await using ground = await Ground.with(server, ["running", "running", "paused"]);
    await ground.drain({ maxParallel: 1 });
    await ground.rounds();
    // The paused sandbox may have had the first slot, and is gone then.
    while ((await ground.executing()).length === 0) await ground.rounds();
    const id = await ground.pausedByDrain();
    await endDrain(ground.db, HERE, { endsAs: "aborted", requestedBy: "test" });
    expect(await findHost(ground.db, HERE)).toMatchObject({ state: "cordoned" });
    await ground.rounds();
    const resume = await ground.only("resume", "here");
    expect(resume.sandboxId).toBe(id);
    expect(await ground.progress()).toMatchObject({ drain: { status: "undoing" } });
    await ground.scheduler.complete(resume.id, { state: "running" });
    await ground.rounds();
    expect(await ground.progress()).toMatchObject({
      drain: { status: "aborted" },
      working: 0,
      failures: [],
    });
    for (const sandbox of ground.sandboxes.slice(0, 2))
      expect(await ground.sandbox(sandbox.id)).toMatchObject({ state: "running", hostId: "here" });
    expect((await listHostEvents(ground.db, HERE, 100)).map(({ fact }) => fact).slice(-2)).toEqual([
      "drain_aborted",
      "drain_undone",
    ]);
    expect(
      await endDrain(ground.db, HERE, { endsAs: "aborted", requestedBy: "test" }),
      "there is none",
    ).toMatchObject({
      kind: "refused",
    });
  });

  test("abort in the middle of a pause takes it back, and repeated it is the same", async () => {
    await using ground = await Ground.with(server, ["running"]);
    await ground.drain();
    await ground.rounds();
    const pause = await ground.only("pause", "here");
    const abort = async () =>
      await endDrain(ground.db, HERE, { endsAs: "aborted", requestedBy: "test" });
    expect([(await abort()).kind, (await abort()).kind]).toEqual(["moved", "stay"]);
    await ground.rounds();
    expect(await ground.scheduler.commit(pause.id)).toBe(false);
  });

  test("abort before a pause has begun drops it", async () => {
    await using ground = await Ground.with(server, ["running"]);
    await ground.drain();
    await ground.roundThatDies();
    await endDrain(ground.db, HERE, { endsAs: "aborted", requestedBy: "test" });
    await ground.rounds();
    expect(await ground.progress()).toMatchObject({
      drain: { status: "aborted" },
      ended: { returned: 1 },
    });
    expect(
      await ground.scheduler.database
        .sql`SELECT kind, status FROM operations WHERE kind <> 'create'`,
    ).toEqual([{ kind: "pause", status: "superseded" }]);
    expect(await ground.sandbox(idOf(ground.sandboxes[0]))).toMatchObject({
      state: "running",
      hostId: "here",
    });
  });

  test("the deadline does the same, and says so", async () => {
    await using ground = await Ground.with(server, ["running"]);
    await ground.drain({ deadlineAt: new Date(Date.now() + 3_600_000) });
    await ground.rounds();
    await ground.pausedByDrain();
    await ground.scheduler.database
      .sql`UPDATE drains SET deadline_at = now() - interval '1 second'`;
    await ground.rounds();
    await ground.scheduler.complete((await ground.only("resume", "here")).id, { state: "running" });
    await ground.rounds();
    expect(await ground.progress()).toMatchObject({ drain: { status: "expired" } });
    const [event] = (await listHostEvents(ground.db, HERE, 100)).filter(
      ({ fact }) => fact === "drain_expired",
    );
    expect(event).toMatchObject({ toState: "cordoned", cause: { code: "DRAIN_EXPIRED" } });
  });

  test("a drain asked for again goes on with the new budget", async () => {
    await using ground = await Ground.with(server, ["running", "running"]);
    await ground.drain();
    await ground.rounds();
    await endDrain(ground.db, HERE, { endsAs: "aborted", requestedBy: "test" });
    await ground.drain({ maxParallel: 2 });
    await ground.rounds();
    expect(await ground.progress()).toMatchObject({
      drain: { status: "active", maxParallel: 2 },
      total: 2,
      working: 2,
    });
  });
});
