/**
 * The neighbour's requests, on a thread of its own, so that an attacker's work on the main thread
 * does not add to their times. Requests are sent one after the other, a series per message.
 */
import { parentPort, workerData } from "node:worker_threads";
import type { Asked, NeighbourData, Window } from "./neighbour.ts";

const GETS = 12;
const LIMIT_MS = 60_000;

const { url, apiKey, id } = workerData as NeighbourData;

async function call(method: string, path: string): Promise<void> {
  const response = await fetch(new URL(path, url), {
    method,
    headers: { "x-api-key": apiKey },
    signal: AbortSignal.timeout(LIMIT_MS),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${path} was answered ${response.status}: ${text}`);
}

async function timed(method: string, path: string): Promise<number> {
  const startedAt = performance.now();
  await call(method, path);
  return performance.now() - startedAt;
}

const path = `/v1/sandboxes/${id}`;

async function reads(): Promise<number> {
  const tookMs: number[] = [];
  for (let at = 0; at < GETS; at += 1) tookMs.push(await timed("GET", path));
  return tookMs.toSorted((a, b) => a - b)[GETS / 2] ?? Number.NaN;
}

async function all(): Promise<Window> {
  const getMs = await reads();
  const transitionMs =
    ((await timed("POST", `${path}/pause`)) + (await timed("POST", `${path}/resume`))) / 2;
  return { getMs, transitionMs };
}

parentPort?.on("message", (asked: Asked) => {
  void (asked === "all" ? all() : reads()).then(
    (seen) => parentPort?.postMessage({ seen }),
    (error: unknown) => parentPort?.postMessage({ failure: String(error) }),
  );
});
