/** The work of a step's clients until they are stopped. */
import { sleep } from "@torpor/service";
import type { ClientAnswer, BenchCall } from "./client.ts";
import { create, createMany, failureOf, idIn, remove, removeMany } from "./sandboxes.ts";
import type { Tally } from "./tally.ts";

export interface Load {
  /** Runs until the signal aborts, and finishes the requests in flight. */
  run(tally: Tally, stop: AbortSignal): Promise<void>;
  /** Removes what the load has created. */
  close(): Promise<void>;
}

/** Delay after a failure, so that a dead control plane is not flooded. */
const AFTER_FAILURE_MS = 100;
const LOOK_EVERY_MS = 5;
const VERBS = ["pause", "resume"] as const;

/** Returns the response if it has the expected status. */
async function attempt(
  tally: Tally,
  kind: string,
  expected: number,
  ask: () => Promise<ClientAnswer>,
  startedAt?: number,
): Promise<ClientAnswer | undefined> {
  const answer = await ask().catch((error: unknown) => String(error));
  if (typeof answer !== "string" && answer.status === expected) {
    tally.succeeded(kind, startedAt === undefined ? answer.ms : performance.now() - startedAt);
    return answer;
  }
  tally.failed(`${kind}: ${typeof answer === "string" ? answer : failureOf(answer)}`);
  await sleep(AFTER_FAILURE_MS, new AbortController().signal);
  return undefined;
}

const move = (call: BenchCall, id: string, verb: (typeof VERBS)[number]) =>
  call("POST", `/v1/sandboxes/${id}/${verb}`);

/** Each client pauses and resumes its own sandbox, one request after the other. */
export async function closedLoop(call: BenchCall, clients: number): Promise<Load> {
  const ids = await createMany(call, clients);
  const client = async (id: string, tally: Tally, stop: AbortSignal) => {
    while (!stop.aborted)
      for (const verb of VERBS) await attempt(tally, verb, 200, () => move(call, id, verb));
  };
  return {
    run: async (tally, stop) => void (await Promise.all(ids.map((id) => client(id, tally, stop)))),
    close: () => removeMany(call, ids),
  };
}

/**
 * A fixed number of transitions per second, whether or not earlier ones have ended. The time of a
 * transition counts from its planned start: waiting for a free sandbox is waiting for the control
 * plane.
 */
export async function pacedLoop(
  call: BenchCall,
  sandboxes: number,
  perSecond: number,
): Promise<Load> {
  const ids = await createMany(call, sandboxes);
  const free = ids.map((id) => ({ id, verb: VERBS[0] as (typeof VERBS)[number] }));
  const run = async (tally: Tally, stop: AbortSignal) => {
    const under = new Set<Promise<void>>();
    const startedAt = performance.now();
    const dueAtMs = (at: number) => startedAt + (at * 1_000) / perSecond;
    for (let at = 0; !stop.aborted;) {
      for (; dueAtMs(at) <= performance.now(); at += 1) {
        const sandbox = free.shift();
        if (sandbox === undefined) break;
        const moving = moveInTurn(sandbox, dueAtMs(at), tally).then(
          () => void under.delete(moving),
        );
        under.add(moving);
      }
      await sleep(LOOK_EVERY_MS, stop);
    }
    await Promise.all(under);
  };
  const moveInTurn = async (sandbox: (typeof free)[number], dueAt: number, tally: Tally) => {
    const { id, verb } = sandbox;
    await attempt(tally, verb, 200, () => move(call, id, verb), dueAt);
    free.push({ id, verb: verb === "pause" ? "resume" : "pause" });
  };
  return { run, close: () => removeMany(call, ids) };
}

/** Each client creates a sandbox and deletes it, repeatedly. */
export function createDeleteLoop(call: BenchCall, clients: number): Load {
  const client = async (tally: Tally, stop: AbortSignal) => {
    while (!stop.aborted) {
      const created = await attempt(tally, "create", 201, () => create(call));
      if (created !== undefined)
        await attempt(tally, "delete", 200, () => remove(call, idIn(created)));
    }
  };
  return together(clients, client);
}

/** Each client reads, one request after the other, cycling through `paths`. */
export function readLoop(
  call: BenchCall,
  kind: string,
  clients: number,
  paths: readonly string[],
): Load {
  let at = 0;
  const client = async (tally: Tally, stop: AbortSignal) => {
    while (!stop.aborted) {
      const path = paths[at++ % paths.length] ?? "/";
      await attempt(tally, kind, 200, () => call("GET", path));
    }
  };
  return together(clients, client);
}

/** Each client runs one job after the other. */
export function jobLoop(call: BenchCall, clients: number): Load {
  const client = async (tally: Tally, stop: AbortSignal) => {
    while (!stop.aborted) await attempt(tally, "job", 200, () => call("POST", "/jobs"));
  };
  return together(clients, client);
}

function together(
  clients: number,
  client: (tally: Tally, stop: AbortSignal) => Promise<void>,
): Load {
  const run: Load["run"] = async (tally, stop) =>
    void (await Promise.all(Array.from({ length: clients }, () => client(tally, stop))));
  return { run, close: async () => {} };
}
