/** A steady mix of requests to a control plane, at a rate that any machine sustains. */
import { sleep } from "@torpor/service";
import type { BenchCall } from "../load/client.ts";
import { create, failureOf, remove } from "../load/sandboxes.ts";
import type { Tally } from "../load/tally.ts";
import { getFrom, openedBy, type SandboxWay } from "../data-plane/ways.ts";

/** Delay of each client between two requests. */
const EVERY_MS = 1_000;
const CLIENTS = 4;

/** Clients that create a sandbox, use it and delete it, repeatedly until they are stopped. */
export async function soakLoad(
  call: BenchCall,
  edgePort: number,
  tally: Tally,
  stop: AbortSignal,
): Promise<void> {
  const clients = Array.from({ length: CLIENTS }, async () => {
    while (!stop.aborted) await lifeOf(call, edgePort, tally, stop);
  });
  await Promise.all(clients);
}

async function lifeOf(
  call: BenchCall,
  edgePort: number,
  tally: Tally,
  stop: AbortSignal,
): Promise<void> {
  const made = await timed(tally, "create", 201, () => create(call));
  await sleep(EVERY_MS, stop);
  if (made === undefined) return;
  const way = openedBy(made.text, edgePort);
  for (const step of [edge, list, edge, move("pause"), get, move("resume"), edge, list]) {
    if (stop.aborted) break;
    await step(call, way, tally);
    await sleep(EVERY_MS, stop);
  }
  await timed(tally, "delete", 200, () => remove(call, way.id));
}

type Step = (call: BenchCall, way: SandboxWay, tally: Tally) => Promise<unknown>;

const edge: Step = (_, way, tally) => timed(tally, "edge", 200, () => getFrom(way, "/info"));
const list: Step = (call, _, tally) =>
  timed(tally, "list", 200, () => call("GET", "/v1/sandboxes?limit=100"));
const get: Step = (call, { id }, tally) =>
  timed(tally, "get", 200, () => call("GET", `/v1/sandboxes/${id}`));
const move =
  (verb: "pause" | "resume"): Step =>
  (call, { id }, tally) =>
    timed(tally, verb, 200, () => call("POST", `/v1/sandboxes/${id}/${verb}`));

async function timed<T extends { status: number; text: string; ms: number }>(
  tally: Tally,
  kind: string,
  expected: number,
  ask: () => Promise<T>,
): Promise<T | undefined> {
  const answer = await ask().catch((error: unknown) => String(error));
  if (typeof answer !== "string" && answer.status === expected) {
    tally.succeeded(kind, answer.ms);
    return answer;
  }
  tally.failed(`${kind}: ${typeof answer === "string" ? answer : failureOf(answer)}`);
  return undefined;
}
