/**
 * Cloud Hypervisor's API over its UNIX socket.
 *
 * API1  One connection per request, closed after the response: a reused connection was seen to
 *       hang, and after a 400 the rest of a body is read as further requests.
 * API2  Every call has a limit, because the server has none: it handles requests one by one, so
 *       that a snapshot in progress delays even a ping.
 * API3  The outcome of a call is a value. A status proves little and a response can be lost:
 *       callers read `info`, act, and read `info` again.
 */
import { jsonParser, type ParsedJson } from "@torpor/contracts";
import { messageOf, sleep } from "@torpor/service";
import { type Static, Type } from "typebox";
import { type IncomingMessage, request as httpRequest } from "node:http";
import { once } from "node:events";
import type { VmConfig } from "./config.ts";

export type ApiOutcome<T> =
  | { kind: "ok"; value: T }
  /** The server refused. `chain`: the error messages, outermost first. */
  | { kind: "refused"; status: number; chain: string[] }
  /**
   * No connection, or a connection that closed without a response: the call may or may not have had
   * its effect.
   */
  | { kind: "unreachable"; reason: string }
  | { kind: "timeout"; limitMs: number };

const Ping = Type.Object({ pid: Type.Integer(), version: Type.String() });
type Ping = Static<typeof Ping>;

const VmInfo = Type.Object({
  config: Type.Record(Type.String(), Type.Unknown()),
  state: Type.Enum(["Created", "Running", "Paused", "Shutdown", "BreakPoint"]),
});
export type VmInfo = Static<typeof VmInfo>;

const parsePing = jsonParser(Ping);
const parseInfo = jsonParser(VmInfo);

const MAX_ANSWER_BYTES = 1024 ** 2;
const BUSY_RETRY_MS = 20;
const PREFIX = "/api/v1/";
/** The server has ten connections, and sends this status on the eleventh. */
const TOO_MANY_CONNECTIONS = 503;

export interface CloudHypervisorApi {
  ping(limitMs: number): Promise<ApiOutcome<Ping>>;
  info(limitMs: number): Promise<ApiOutcome<VmInfo>>;
  create(config: VmConfig, limitMs: number): Promise<ApiOutcome<void>>;
  boot(limitMs: number): Promise<ApiOutcome<void>>;
  pause(limitMs: number): Promise<ApiOutcome<void>>;
  resume(limitMs: number): Promise<ApiOutcome<void>>;
  /** `directory` is relative to the VMM's working directory; it exists and is empty. */
  snapshot(directory: string, limitMs: number): Promise<ApiOutcome<void>>;
  /** The vCPUs are paused afterwards. */
  restore(directory: string, limitMs: number): Promise<ApiOutcome<void>>;
}

export function cloudHypervisorApi(socketPath: string): CloudHypervisorApi {
  const get = (name: string, limitMs: number) =>
    call({ socketPath, method: "GET", name, body: undefined, limitMs });
  const put = async (
    name: string,
    body: object | undefined,
    limitMs: number,
  ): Promise<ApiOutcome<void>> => {
    const outcome = await call({ socketPath, method: "PUT", name, body, limitMs });
    return outcome.kind === "ok" ? { kind: "ok", value: undefined } : outcome;
  };
  return {
    ping: async (limitMs) => parsed(parsePing, await get("vmm.ping", limitMs)),
    info: async (limitMs) => parsed(parseInfo, await get("vm.info", limitMs)),
    create: (config, limitMs) => put("vm.create", config, limitMs),
    boot: (limitMs) => put("vm.boot", undefined, limitMs),
    pause: (limitMs) => put("vm.pause", undefined, limitMs),
    resume: (limitMs) => put("vm.resume", undefined, limitMs),
    snapshot: (directory, limitMs) =>
      put("vm.snapshot", { destination_url: `file://${directory}` }, limitMs),
    // Copy: in version 53, OnDemand fills all of the memory in the background and blocks the next
    // snapshot.
    restore: (directory, limitMs) =>
      put(
        "vm.restore",
        { source_url: `file://${directory}`, memory_restore_mode: "Copy", resume: false },
        limitMs,
      ),
  };
}

/** Text for an error message. */
export function explain(outcome: Exclude<ApiOutcome<unknown>, { kind: "ok" }>): string {
  switch (outcome.kind) {
    case "refused":
      return `${outcome.chain.join(": ")} (${outcome.status})`;
    case "unreachable":
      return outcome.reason;
    case "timeout":
      return `no answer within ${outcome.limitMs} ms`;
  }
}

interface Call {
  socketPath: string;
  method: "GET" | "PUT";
  name: string;
  body: object | undefined;
  limitMs: number;
}

/** Makes the call, and repeats it within the limit while the server has no free connection. */
async function call(what: Call): Promise<ApiOutcome<string>> {
  const signal = AbortSignal.timeout(what.limitMs);
  let busy: ApiOutcome<string> | undefined;
  for (;;) {
    const outcome = await attempt(what, signal);
    if (busy !== undefined && outcome.kind === "timeout") return busy;
    if (outcome.kind !== "refused" || outcome.status !== TOO_MANY_CONNECTIONS) return outcome;
    busy = outcome;
    await sleep(BUSY_RETRY_MS, signal);
  }
}

async function attempt(
  { socketPath, method, name, body, limitMs }: Call,
  signal: AbortSignal,
): Promise<ApiOutcome<string>> {
  const text = body === undefined ? "" : JSON.stringify(body);
  const request = httpRequest({
    socketPath,
    agent: false,
    method,
    path: `${PREFIX}${name}`,
    headers: {
      host: "localhost",
      accept: "application/json",
      connection: "close",
      ...(body === undefined ? {} : { "content-type": "application/json" }),
      "content-length": Buffer.byteLength(text),
    },
    signal,
  });
  request.end(text);
  try {
    const [response] = (await once(request, "response")) as [IncomingMessage];
    const answer = await bodyOf(response);
    const status = response.statusCode ?? 0;
    return status >= 200 && status < 300
      ? { kind: "ok", value: answer }
      : { kind: "refused", status, chain: chainOf(answer) };
  } catch (error) {
    if (signal.aborted) return { kind: "timeout", limitMs };
    return { kind: "unreachable", reason: messageOf(error) };
  } finally {
    request.on("error", () => {}).destroy();
  }
}

async function bodyOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_ANSWER_BYTES)
      throw new Error(`the answer is longer than ${MAX_ANSWER_BYTES} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function parsed<T>(
  parse: (text: string) => ParsedJson<T>,
  outcome: ApiOutcome<string>,
): ApiOutcome<T> {
  if (outcome.kind !== "ok") return outcome;
  const answer = parse(outcome.value);
  if (answer.kind === "valid") return { kind: "ok", value: answer.value };
  const problem = answer.problems[0] ?? "not valid";
  return {
    kind: "unreachable",
    reason: `the answer is ${problem}: ${outcome.value.slice(0, 200)}`,
  };
}

/**
 * Messages of a refusal. The VMM sends an array of strings; its HTTP layer sends something else,
 * not always JSON.
 */
function chainOf(answer: string): string[] {
  try {
    const value: unknown = JSON.parse(answer);
    if (Array.isArray(value) && value.every((one) => typeof one === "string")) return value;
  } catch {
    // Not JSON: used as it is.
  }
  return [answer.trim().slice(0, 500) || "it gave no reason"];
}
