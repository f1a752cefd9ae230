/** One sandbox through the API, and the duration of each stage of an operation. */
import type postgres from "postgres";
import { type ClientAnswer, type BenchCall } from "../load/client.ts";
import { failureOf } from "../load/sandboxes.ts";
import type { StageSample } from "./result.ts";

const COMMAND_LIMIT_MS = 60_000;

export interface Access {
  id: string;
  publicHost: string;
  token: string;
}

export interface OperationTimes {
  /** All times are milliseconds since the epoch. */
  createdAt: number;
  startedAt: number;
  endedAt: number;
  /** Stages as reported by the host, in its order. */
  timingsMs: Record<string, number>;
}

/** Times of a request and its response, in milliseconds since the epoch. */
export interface TimedRequest {
  sentAt: number;
  answeredAt: number;
}

export const nowMs = () => performance.timeOrigin + performance.now();

/** Throws a line if the response is no sandbox. */
export async function createSandbox(
  call: BenchCall,
  template: string,
): Promise<Access & TimedRequest> {
  const sentAt = nowMs();
  const answer = await call("POST", "/v1/sandboxes", { body: { template_name: template } });
  const answeredAt = nowMs();
  expectStatus("create", answer, 201);
  return { ...accessIn(answer), sentAt, answeredAt };
}

function accessIn({ text }: ClientAnswer): Access {
  const body = JSON.parse(text) as { id: string; public_host: string; auth_token: string };
  return { id: body.id, publicHost: body.public_host, token: body.auth_token };
}

/** Throws a line on failure. */
export async function change(call: BenchCall, id: string, verb: string): Promise<TimedRequest> {
  const sentAt = nowMs();
  const answer = await call("POST", `/v1/sandboxes/${id}/${verb}`);
  expectStatus(verb, answer, 200);
  return { sentAt, answeredAt: nowMs() };
}

export async function firstCommand(
  { publicHost, token }: Access,
  signal: AbortSignal,
): Promise<void> {
  const response = await fetch(new URL("/commands/run", publicHost), {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify({ command: "true" }),
    signal: AbortSignal.any([signal, AbortSignal.timeout(COMMAND_LIMIT_MS)]),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`the first command was answered ${response.status}: ${text}`);
}

function expectStatus(what: string, answer: ClientAnswer, status: number): void {
  if (answer.status !== status)
    throw new Error(`the ${what} of a sandbox failed: ${failureOf(answer)} ${answer.text}`);
}

/** Times of the sandbox's newest operation. */
export async function readTimes(sql: postgres.Sql, sandboxId: string): Promise<OperationTimes> {
  const [row] = await sql<[{ created: string; started: string; ended: string; timings: unknown }?]>`
    SELECT extract(epoch FROM created_at) * 1000 AS created,
      extract(epoch FROM started_at) * 1000 AS started,
      extract(epoch FROM ended_at) * 1000 AS ended, timings_ms AS timings
    FROM operations WHERE sandbox_id = ${sandboxId} ORDER BY created_at DESC LIMIT 1`;
  if (row === undefined) throw new Error(`there is no operation of ${sandboxId}`);
  return {
    createdAt: Number(row.created),
    startedAt: Number(row.started),
    endedAt: Number(row.ended),
    timingsMs: (row.timings ?? {}) as Record<string, number>,
  };
}

/** In the order in which a host runs them; the database does not keep the order. */
const HOST_STAGES = [
  "wait_for_slot",
  "fetch_snapshot",
  "shutdown",
  "freeze_and_sync",
  "pause_vcpus",
  "save_memory",
  "seal_snapshot",
  "make_disk",
  "assign",
  "restore",
  "ask_commit",
  "boot",
  "run_vcpus",
  "greet_guest",
  "end_vmm",
];

function inOrder(timingsMs: Record<string, number>): Record<string, number> {
  const place = (stage: string) => HOST_STAGES.indexOf(stage) + 1 || HOST_STAGES.length + 1;
  return Object.fromEntries(Object.entries(timingsMs).toSorted(([a], [b]) => place(a) - place(b)));
}

/** From the request to the response; the caller adds stages after the response. */
export function sampleOf({ sentAt, answeredAt }: TimedRequest, times: OperationTimes): StageSample {
  const { createdAt, startedAt, endedAt, timingsMs } = times;
  const onHost = Object.values(timingsMs).reduce((sum, ms) => sum + ms, 0);
  return {
    ms: answeredAt - sentAt,
    stages: {
      accept: createdAt - sentAt,
      begin: startedAt - createdAt,
      ...inOrder(timingsMs),
      // Delivery, journal, writes, report, and the applying of the observation.
      "to and fro": endedAt - startedAt - onHost,
      answer: answeredAt - endedAt,
    },
  };
}
