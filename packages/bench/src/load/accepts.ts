/**
 * Intents without a waiting client: accepted intents and ended operations per second. Each sandbox
 * is paused once and resumed once, so the number of sandboxes bounds the number of intents.
 */
import { sleep } from "@torpor/service";
import type postgres from "postgres";
import { type Meters, MeasuredWindow } from "../measure/window.ts";
import type { StepResult } from "../report/result.ts";
import type { BenchCall } from "./client.ts";
import { createMany, failureOf, inParallel, removeMany } from "./sandboxes.ts";
import { Tally } from "./tally.ts";

const QUIET_LIMIT_MS = 120_000;
const LOOK_EVERY_MS = 100;

export async function measureAccepts(
  meters: Meters,
  call: BenchCall,
  { clients, sandboxes }: { clients: number; sandboxes: number },
  signal: AbortSignal,
): Promise<StepResult> {
  const ids = await createMany(call, sandboxes);
  const tally = new Tally();
  let acceptingMs = 0;
  const window = await MeasuredWindow.begin(meters);
  tally.open();
  for (const verb of ["pause", "resume"]) {
    const startedAt = performance.now();
    await inParallel(ids, (id) => accept(call, id, verb, tally), clients);
    acceptingMs += performance.now() - startedAt;
    await untilSettled(meters.sql, signal);
  }
  const count = () => tally.count();
  const measured = await window.end(count);
  await removeMany(call, ids);
  return {
    name: `async-${clients}`,
    unit: "intent",
    clients,
    ...measured,
    perSecond: count() / (acceptingMs / 1_000),
    latencies: tally.latencies(),
    failed: tally.failedBy(),
    extra: { settledPerSecond: measured.perSecond },
  };
}

async function accept(call: BenchCall, id: string, verb: string, tally: Tally): Promise<void> {
  const path = `/v1/sandboxes/${id}/${verb}`;
  const answer = await call("POST", path, { prefer: "respond-async" });
  if (answer.status === 202) tally.succeeded(verb, answer.ms);
  else tally.failed(`${verb}: ${failureOf(answer)}`);
}

async function untilSettled(sql: postgres.Sql, signal: AbortSignal): Promise<void> {
  const deadlineMs = performance.now() + QUIET_LIMIT_MS;
  for (;;) {
    const [row] = await sql`
      SELECT count(*)::int AS open FROM operations
      WHERE status IN ('waiting', 'executing', 'outcome_unknown')`;
    if (row?.["open"] === 0) return;
    if (performance.now() > deadlineMs)
      throw new Error(
        `${String(row?.["open"])} operations did not end within ${QUIET_LIMIT_MS / 1_000} s`,
      );
    await sleep(LOOK_EVERY_MS, signal);
    signal.throwIfAborted();
  }
}
