/**
 * kill -9 in the middle of a batch. Many clients send requests at once, so their operations share
 * transactions (decision 36). The test holds one of these transactions half written, and kills a
 * program. Afterwards each request has happened once, as its response reported.
 */
import {
  draws,
  insist,
  insistOnDelete,
  runCode,
  type SandboxResource,
  simulatedVcpusRun,
  startTestFleet,
  TEST_SEED,
  type TestFleet,
  transition,
  until,
  VmmAuditor,
} from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type BatchKind, holdBatch } from "./support/held-batch.ts";

// The fleet has one gateway and one scheduler, so the program that is killed has the batch.
const VICTIMS = ["gateway-1", "scheduler-1", "host-1", "nats", "postgres"] as const;
const DRAWN = VICTIMS[Math.floor(draws("the victim of a batch")() * VICTIMS.length)];
const EACH = 3;

const ground = new AsyncDisposableStack();
let fleet: TestFleet;
let auditor: VmmAuditor;
let sql: postgres.Sql;
beforeAll(async () => {
  fleet = ground.use(await startTestFleet({ schedulers: 1 }));
  auditor = ground.use(VmmAuditor.over(fleet.fleet.dir, simulatedVcpusRun));
  sql = postgres(fleet.fleet.state.databaseUrl, { max: 1, onnotice: () => {} });
  ground.defer(() => sql.end({ timeout: 5 }));
});
afterAll(async () => {
  await ground.disposeAsync();
});

type Verb = "pause" | "resume" | "delete";

const events = (...facts: string[]): BatchKind => ({
  table: "sandbox_events",
  where: `fact IN (${facts.map((fact) => `'${fact}'`).join()})`,
});
/**
 * The gateway writes the first two kinds. A scheduler writes the others, except for operations that
 * a gateway begins by itself (decision 42).
 */
const ACCEPTED_CREATES = events("accepted");
const ACCEPTED_REQUESTS: BatchKind = { table: "operations", where: "kind IN ('pause', 'resume')" };
const BEGUN = events("create_assigned", "pause_assigned", "resume_assigned");
const SETTLED: BatchKind = {
  ...events("running", "paused"),
  whileOthersCome: "SELECT FROM operations WHERE status = 'executing' AND committed_at IS NULL",
};
const DELETED = events("delete_accepted");

/**
 * Sends the requests, kills the victim in the middle of the first batch of that kind, and starts
 * the victim again. Returns the responses.
 */
async function killedDuring<T>(
  victim: string,
  kind: BatchKind,
  ask: () => Promise<T>[],
): Promise<T[]> {
  const batch = await holdBatch(fleet.fleet.state.databaseUrl, kind);
  try {
    const asked = Promise.all(ask());
    const tooEarly = asked.then((answers) => {
      throw new Error(`no batch of several came before the answers: ${JSON.stringify(answers)}`);
    });
    await Promise.race([batch.isHeld(), tooEarly]);
    await fleet.fleet.kill(victim);
    await batch.letGo();
    await fleet.fleet.startComponent(victim);
    return await asked;
  } finally {
    await batch.letGo();
  }
}

const create = (key: string) => insist(() => fleet.createSandbox({}, { idempotencyKey: key }));
/** A client that repeats a delete after a lost response gets a 404, which is as good. */
const each = (sandboxes: SandboxResource[], verb: Verb): Promise<unknown>[] =>
  sandboxes.map(async ({ id }) =>
    verb === "delete" ? await insistOnDelete(fleet, id) : await transition(fleet, id, verb),
  );

function made(sandboxes: SandboxResource[]): SandboxResource[] {
  const ids = new Set(sandboxes.map(({ id }) => id));
  expect(ids.size, "each has one of its own").toBe(sandboxes.length);
  return sandboxes;
}

async function are(sandboxes: SandboxResource[], status: "running" | "paused"): Promise<void> {
  for (const { id } of sandboxes) {
    const seen = await insist(() => fleet.client.sandboxes.get(id));
    expect(seen, JSON.stringify(seen)).toMatchObject({ id, status });
    expect(seen.operation).toBeUndefined();
  }
}

const run = async (sandbox: SandboxResource, code: string) =>
  (await insist(() => runCode(sandbox, code))).stdout;

async function survives(victim: string): Promise<void> {
  const keys = (what: string) => Array.from({ length: EACH }, (_, at) => `${victim}-${what}-${at}`);
  const names = [...keys("one"), ...keys("other")];
  const first = made(
    await killedDuring(victim, ACCEPTED_CREATES, () => names.map((key) => create(key))),
  );
  await are(first, "running");
  for (const [at, sandbox] of first.entries()) await run(sandbox, `x = ${at + 40}`);
  const [ones, others] = [first.slice(0, EACH), first.slice(EACH)];

  await killedDuring(victim, ACCEPTED_REQUESTS, () => each(ones, "pause"));
  await are(ones, "paused");
  await are(others, "running");

  let later: Promise<SandboxResource[]> = Promise.resolve([]);
  await killedDuring(victim, BEGUN, () => {
    later = Promise.all(keys("late").map((key) => create(key)));
    // `await later` reports a failure.
    later.catch(() => {});
    return [...each(ones, "resume"), ...each(others, "pause")];
  });
  const lates = made(await later);
  await are([...ones, ...lates], "running");
  await are(others, "paused");

  let gone: Promise<unknown> = Promise.resolve();
  await killedDuring(victim, SETTLED, () => {
    gone = Promise.all(each(lates, "delete"));
    // `await gone` reports a failure.
    gone.catch(() => {});
    return [...each(ones, "pause"), ...each(others, "resume")];
  });
  await are(ones, "paused");
  await are(others, "running");
  await gone;
  await Promise.all(each(ones, "resume"));
  for (const [at, sandbox] of first.entries())
    expect(await run(sandbox, "print(x)")).toBe(`${at + 40}\n`);

  await killedDuring(victim, DELETED, () => each(first, "delete"));
  await nothingIsLeft();
  const ofOnes = ["create", "pause", "resume", "pause", "resume", "delete"];
  await haveDone(ones, ofOnes);
  await haveDone(others, ["create", "pause", "resume", "delete"]);
  await haveDone(lates, ["create", "delete"]);
}

/** Every operation has ended, every message is published, and hosts have nothing reserved. */
async function nothingIsLeft(): Promise<void> {
  await until("all is over", async () => {
    const [left] = await sql`
      SELECT (SELECT count(*) FROM operations WHERE ended_at IS NULL)::int AS operations,
        (SELECT count(*) FROM sandboxes WHERE state <> 'deleted')::int AS sandboxes,
        (SELECT count(*) FROM outbox WHERE published_at IS NULL)::int AS messages,
        (SELECT sum(vcpu_used + memory_mib_used + disk_mib_used) FROM hosts)::int AS reserved`;
    return Object.values(left ?? {}).every((count) => count === 0);
  });
  const [doubled] = await sql`
    SELECT count(*)::int AS gaps FROM (
      SELECT seq, from_state, lag(seq, 1, 0::bigint) OVER of_one AS before,
        lag(to_state) OVER of_one AS was
      FROM sandbox_events WINDOW of_one AS (PARTITION BY sandbox_id ORDER BY seq)) events
    WHERE seq <> before + 1 OR from_state IS DISTINCT FROM was`;
  expect(doubled, "events that do not follow from the one before").toEqual({ gaps: 0 });
  expect(auditor.overlaps, "sandboxes that ran twice at once").toEqual([]);
}

/**
 * Every requested operation has succeeded once. An operation that came to nothing was reported as
 * such, and requested again.
 */
async function haveDone(sandboxes: SandboxResource[], kinds: string[]): Promise<void> {
  for (const { id } of sandboxes) {
    const done = await sql`
      SELECT kind FROM operations WHERE sandbox_id = ${id} AND status = 'succeeded'
      ORDER BY ended_at`;
    expect(done.map(({ kind }) => String(kind))).toEqual(kinds);
    const [runs] = await sql`
      SELECT count(*)::int AS begun FROM incarnations
      WHERE sandbox_id = ${id} AND started_at IS NOT NULL`;
    const wanted = kinds.filter((kind) => kind === "create" || kind === "resume").length;
    expect(runs, "runs that began").toEqual({ begun: wanted });
  }
}

for (const victim of VICTIMS)
  test(
    `S33, S39: kill -9 of ${victim} in the middle of batches${victim === DRAWN ? ` (drawn with TORPOR_TEST_SEED=${TEST_SEED})` : ""}`,
    victim === DRAWN ? {} : { tags: ["exhaustive"] },
    () => survives(victim),
  );
