/**
 * The ports that something in a running sandbox listens on: its guest agent replies to a request
 * when they change.
 */
import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import {
  DATA_PLANE_CONTROLS,
  DATA_PLANE_HEADERS,
  GUEST_AGENT_PORT,
  type GuestPorts,
} from "@torpor/contracts";
import { backoffMs } from "@torpor/service";
import type { FastifyBaseLogger } from "fastify";
import type { AgentTarget } from "./target.ts";

/** Longer than the guest agent waits for a change. */
const ANSWER_LIMIT_MS = 30_000;
const MAX_ANSWER_BYTES = 64 * 1024;
/** Sleep between two requests, whatever a guest does. */
const MIN_PAUSE_MS = 100;
const RETRY = { baseMs: 250, maxMs: 10_000 };
const MAX_PREVIEW_PORTS = 64;
const LOW_PORTS = new Set([80, 443]);

/**
 * The ports that may be offered: not the guest agent's, not `taken`, and of the privileged ports
 * only the two that web servers use.
 */
export function offeredPorts(ports: readonly number[], taken: number): number[] {
  const fits = (port: number) =>
    port <= 65_535 &&
    (port >= 1024 || LOW_PORTS.has(port)) &&
    port !== GUEST_AGENT_PORT &&
    port !== taken;
  return [...new Set(ports)]
    .filter(fits)
    .toSorted((a, b) => a - b)
    .slice(0, MAX_PREVIEW_PORTS);
}

/**
 * Calls `onPorts` for every change, until the signal ends it or the host reports that this run of
 * the sandbox is over. Never rejects.
 */
export async function watchPorts(
  target: AgentTarget,
  options: {
    onPorts: (ports: number[]) => Promise<void>;
    signal: AbortSignal;
    log: FastifyBaseLogger;
  },
): Promise<void> {
  const { signal } = options;
  let etag = "";
  for (let failures = 0; !signal.aborted;) {
    try {
      const asked = await ask(target, etag, signal);
      if (asked === "over") return;
      failures = 0;
      etag = asked.etag;
      await options.onPorts(asked.ports);
      await sleep(MIN_PAUSE_MS, undefined, { signal });
    } catch (err) {
      if (signal.aborted) return;
      failures += 1;
      options.log.debug({ err, run: target.run, failures }, "ports of a guest could not be listed");
      await sleep(backoffMs(failures, RETRY), undefined, { signal }).catch(() => {});
    }
  }
}

async function ask(
  target: AgentTarget,
  etag: string,
  signal: AbortSignal,
): Promise<GuestPorts | "over"> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(ANSWER_LIMIT_MS)]);
  const request = target.request({
    path: `${DATA_PLANE_CONTROLS.ports}?after=${encodeURIComponent(etag)}`,
    headers: { ...target.headers, [DATA_PLANE_HEADERS.control]: "ports" },
    signal: limit,
  });
  request.end();
  const [answer] = (await once(request, "response", { signal: limit })) as [IncomingMessage];
  const text = await textOf(answer);
  if (answer.statusCode === 409) return "over";
  if (answer.statusCode !== 200) throw new Error(`the agent answered ${answer.statusCode}`);
  return portsIn(JSON.parse(text));
}

/** Reads a body up to a limit: a guest may send anything, without end. */
async function textOf(answer: IncomingMessage): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of answer as AsyncIterable<Uint8Array>) {
    size += chunk.length;
    if (size > MAX_ANSWER_BYTES)
      throw new Error(`the agent's answer is longer than ${MAX_ANSWER_BYTES} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function portsIn(answer: unknown): GuestPorts {
  const { ports, etag } = (answer ?? {}) as Partial<GuestPorts>;
  if (
    !Array.isArray(ports) ||
    !ports.every((port) => Number.isInteger(port)) ||
    typeof etag !== "string"
  )
    throw new Error("the agent's answer is not a list of ports");
  return { ports, etag: etag.slice(0, 128) };
}
