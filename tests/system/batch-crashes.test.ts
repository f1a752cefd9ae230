/**
 * kill -9 in the middle of a batch. Many clients send requests at once, so their operations share
 * transactions (decision 36). The test holds one of these transactions half written, and kills a
 * program. Afterwards each request has happened once, as its response reported.
 */
import {
  draws,
  simulatedVcpusRun,
  startTestFleet,
  TEST_SEED,
  type TestFleet,
  until,
  VmmAuditor,
} from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type BatchKind, holdBatch } from "./support/held-batch.ts";
import { insist, transition } from "./support/insist.ts";

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

type Body = Record<string, unknown>;
type Answers = Promise<{ status: number; body: Body }>[];
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
async function killedDuring(victim: string, kind: BatchKind, ask: () => Answers) {
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

const create = (key: string) =>
  insist(() =>
    fleet.call("POST", "/v1/sandboxes", {
      body: { template_name: "code-interpreter" },
      headers: { "idempotency-key": key },
    }),
  );
const pathOf = ({ id }: Body) => `/v1/sandboxes/${String(id)}`;
const each = (sandboxes: Body[], verb: Verb): Answers =>
  sandboxes.map((sandbox) =>
    verb === "delete"
      ? insist(() => fleet.call("DELETE", pathOf(sandbox)))
      : transition(fleet, pathOf(sandbox), verb),
  );

function made(answers: Awaited<Answers[number]>[]): Body[] {
  for (const { status, body } of answers) expect(status, JSON.stringify(body)).toBe(201);
  const ids = new Set(answers.map(({ body }) => body["id"]));
  expect(ids.size, "each has one of its own").toBe(answers.length);
  return answers.map(({ body }) => body);
}

async function are(sandboxes: Body[], status: "running" | "paused"): Promise<void> {
  for (const sandbox of sandboxes) {
    const { body } = await insist(() => fleet.call("GET", pathOf(sandbox)));
    expect(body, JSON.stringify(body)).toMatchObject({ id: sandbox["id"], status });
    expect(body["operation"]).toBeUndefined();
  }
}

function allDone(answers: Awaited<Answers[number]>[]): void {
  for (const { status, body } of answers) expect(status, JSON.stringify(body)).toBe(200);
}

async function run(sandbox: Body, code: string): Promise<unknown> {
  const given = { language: "python", code };
  const { status, body } = await insist(() => fleet.guest(sandbox, "/execute", given));
  expect(status, JSON.stringify(body)).toBe(200);
  return body["stdout"];
}

async function survives(victim: string): Promise<void> {
  const keys = (what: string) => Array.from({ length: EACH }, (_, at) => `${victim}-${what}-${at}`);
  const names = [...keys("one"), ...keys("other")];
  const first = made(
    await killedDuring(victim, ACCEPTED_CREATES, () => names.map((key) => create(key))),
  );
  await are(first, "running");
  for (const [at, sandbox] of first.entries()) await run(sandbox, `x = ${at + 40}`);
  const [ones, others] = [first.slice(0, EACH), first.slice(EACH)];

  allDone(await killedDuring(victim, ACCEPTED_REQUESTS, () => each(ones, "pause")));
  await are(ones, "paused");
  await are(others, "running");

  let later: Promise<Awaited<Answers[number]>[]> = Promise.resolve([]);
  allDone(
    await killedDuring(victim, BEGUN, () => {
      later = Promise.all(keys("late").map((key) => create(key)));
      return [...each(ones, "resume"), ...each(others, "pause")];
    }),
  );
  const lates = made(await later);
  await are([...ones, ...lates], "running");
  await are(others, "paused");

  const gone: Answers = [];
  allDone(
    await killedDuring(victim, SETTLED, () => {
      gone.push(...each(lates, "delete"));
      return [...each(ones, "pause"), ...each(others, "resume")];
    }),
  );
  await are(ones, "paused");
  await are(others, "running");
  areGone(await Promise.all(gone));
  allDone(await Promise.all(each(ones, "resume")));
  for (const [at, sandbox] of first.entries())
    expect(await run(sandbox, "print(x)")).toBe(`${at + 40}\n`);

  areGone(await killedDuring(victim, DELETED, () => each(first, "delete")));
  await nothingIsLeft();
  const ofOnes = ["create", "pause", "resume", "pause", "resume", "delete"];
  await haveDone(ones, ofOnes);
  await haveDone(others, ["create", "pause", "resume", "delete"]);
  await haveDone(lates, ["create", "delete"]);
}

/** A client that repeats a delete after a lost response gets a 404. */
function areGone(answers: Awaited<Answers[number]>[]): void {
  for (const { status, body } of answers)
    expect([200, 404], JSON.stringify(body)).toContain(status);
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
async function haveDone(sandboxes: Body[], kinds: string[]): Promise<void> {
  for (const { id } of sandboxes) {
    const done = await sql`
      SELECT kind FROM operations WHERE sandbox_id = ${String(id)} AND status = 'succeeded'
      ORDER BY ended_at`;
    expect(done.map(({ kind }) => String(kind))).toEqual(kinds);
    const [runs] = await sql`
      SELECT count(*)::int AS begun FROM incarnations
      WHERE sandbox_id = ${String(id)} AND started_at IS NOT NULL`;
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
