/**
 * Client of the guest agent's control API. Each call has its own connection: none survives a
 * restore.
 */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { type IncomingMessage, request as httpRequest } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { GUEST_AGENT_KEY_HEADER } from "@torpor/contracts";
import type { Driver, Vm } from "../drivers/driver.ts";
import { durableStep } from "../host/durable-step.ts";
import { connectGuest, type GuestAddress } from "../guest-connection.ts";
import { jsonDecoder } from "../host/json.ts";
import { Type } from "typebox";
import type { VmRecord } from "./record.ts";

const decodeAnswer = jsonDecoder(Type.Record(Type.String(), Type.Unknown()));

/** Activity inside the guest, from any source. */
interface GuestActivity {
  activeRequests: number;
  activeExecutions: number;
  lastActivityMsAgo: number;
}

export interface Guest {
  waitHealthy(vm: Vm, limitMs: number, signal: AbortSignal): Promise<boolean>;
  warm(vm: Vm): Promise<void>;
  /**
   * Quiesces the guest: suspends the users' processes, then syncs. Never throws: a guest that does
   * not reply is paused anyway, unsynced.
   */
  preparePause(vm: Vm, agentKey?: string): Promise<{ frozen: boolean; synced: boolean }>;
  thaw(vm: Vm, agentKey: string): Promise<void>;
  /**
   * Activity inside the guest; undefined if the guest agent is too old to report it. Throws if the
   * guest agent does not reply.
   */
  activity(vm: Vm, agentKey: string): Promise<GuestActivity | undefined>;
  /**
   * Gives a fresh guest (booted, or from a golden snapshot) the sandbox's identity before user code
   * runs: entropy, clock, disk, names, key. `envVars` are added to those on the disk. Throws if the
   * guest agent refuses.
   */
  initGuest(vm: Vm, record: VmRecord, envVars?: Record<string, string>): Promise<void>;
  /** Renews the identity of a guest that was paused: as `initGuest`, without disk and variables. */
  reinitGuest(vm: Vm, record: VmRecord): Promise<void>;
  shutdown(vm: Vm, agentKey: string): Promise<void>;
}

const MAX_HEALTH_WAIT_MS = 1_000;
const CALL_LIMIT_MS = 15_000;
/** More than the guest takes to end its processes and to sync (guest-agent, identity.ts). */
const SHUTDOWN_LIMIT_MS = 45_000;
const ACTIVITY_LIMIT_MS = 5_000;
/**
 * Warming up happens once per image and host; an emulated guest on a busy machine takes minutes.
 */
const WARM_LIMIT_MS = 1_200_000;
const MAX_ANSWER_BYTES = 1024 * 1024;

class GuestRefusedError extends Error {
  override readonly name = "GuestRefusedError";
  readonly status: number;

  constructor(path: string, status: number, message: string) {
    super(`the guest agent refused ${path}: ${status} ${message}`);
    this.status = status;
  }
}

export function httpGuest(driver: Pick<Driver, "guestAddress" | "isAlive">): Guest {
  const call = async (
    vm: Vm,
    path: string,
    body: unknown,
    agentKey: string | undefined,
    limitMs = CALL_LIMIT_MS,
  ) => {
    const address = await driver.guestAddress(vm);
    if (address === undefined) throw new Error(`no VMM of ${vm.sandboxId} runs`);
    const { status, answer } = await guestRequest(address, path, body, agentKey, limitMs);
    if (status >= 300) throw new GuestRefusedError(path, status, String(answer["message"]));
    return answer;
  };
  return {
    async waitHealthy(vm, limitMs, signal) {
      const deadline = performance.now() + limitMs;
      // The probes become less frequent: on a busy or emulated host they would slow down a guest
      // that boots.
      for (
        let waitMs = 100;
        performance.now() < deadline && !signal.aborted;
        waitMs = Math.min(waitMs * 1.5, MAX_HEALTH_WAIT_MS)
      ) {
        if (!(await driver.isAlive(vm))) return false;
        const healthy = await call(vm, "/health", undefined, undefined, 2_000).then(
          () => true,
          () => false,
        );
        if (healthy) return true;
        await sleep(waitMs);
      }
      return false;
    },
    async warm(vm) {
      await call(vm, "/_torpor/warm", {}, undefined, WARM_LIMIT_MS);
    },
    async preparePause(vm, agentKey) {
      try {
        const prepare = () =>
          call(vm, "/_torpor/prepare-pause", { timeoutMs: 2_000 }, agentKey, 40_000);
        const answer = await durableStep("quiesce guest", prepare);
        return { frozen: answer["frozen"] === true, synced: answer["synced"] === true };
      } catch {
        return { frozen: false, synced: false };
      }
    },
    async thaw(vm, agentKey) {
      await durableStep("thaw guest", () => call(vm, "/_torpor/thaw", {}, agentKey));
    },
    async activity(vm, agentKey) {
      try {
        const answer = await call(vm, "/_torpor/activity", undefined, agentKey, ACTIVITY_LIMIT_MS);
        return {
          activeRequests: Number(answer["active_requests"]),
          activeExecutions: Number(answer["active_executions"]),
          lastActivityMsAgo: Number(answer["last_activity_ms_ago"]),
        };
      } catch (error) {
        // The guest agent of an older image.
        if (error instanceof GuestRefusedError && error.status === 404) return undefined;
        throw error;
      }
    },
    async initGuest(vm, record, envVars) {
      const identity = { ...identityOf(record), ...(envVars === undefined ? {} : { envVars }) };
      await durableStep("identify guest", () =>
        call(vm, "/_torpor/post-boot", identity, undefined, 60_000),
      );
    },
    async reinitGuest(vm, record) {
      const identity = identityOf(record);
      await durableStep("identify guest", () =>
        call(vm, "/_torpor/post-restore", identity, record.agentKey, 60_000),
      );
    },
    async shutdown(vm, agentKey) {
      await durableStep("shut down guest", () =>
        call(vm, "/_torpor/shutdown", {}, agentKey, SHUTDOWN_LIMIT_MS),
      );
    },
  };
}

/** One request on its own connection; `limitMs` covers connecting and the reply together. */
async function guestRequest(
  address: GuestAddress,
  path: string,
  body: unknown,
  agentKey: string | undefined,
  limitMs: number,
) {
  const signal = AbortSignal.timeout(limitMs);
  const socket = await connectGuest(address, limitMs);
  const text = body === undefined ? "" : JSON.stringify(body);
  const request = httpRequest({
    createConnection: () => socket,
    method: body === undefined ? "GET" : "POST",
    path,
    headers: {
      "content-type": "application/json",
      "content-length": Buffer.byteLength(text),
      ...(agentKey === undefined ? {} : { [GUEST_AGENT_KEY_HEADER]: agentKey }),
    },
    signal,
  });
  // Once the response has begun, no other listener is left: a later error then fails the reading of
  // the response, instead of ending the agent.
  request.on("error", () => {});
  request.end(text);
  try {
    const [response] = (await once(request, "response")) as [IncomingMessage];
    return { status: response.statusCode ?? 0, answer: await answerOf(response) };
  } catch (cause) {
    if (!signal.aborted) throw cause;
    throw new Error(`the guest's agent did not answer ${path} within ${limitMs} ms`, { cause });
  } finally {
    request.destroy();
  }
}

/**
 * Body of a response, bounded: user code can take the guest agent's place and respond without end,
 * which must not fill the host's memory.
 */
async function answerOf(response: IncomingMessage): Promise<Record<string, unknown>> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_ANSWER_BYTES)
      throw new Error(`the guest's answer is longer than ${MAX_ANSWER_BYTES} bytes`);
    chunks.push(chunk);
  }
  return decodeAnswer("the guest's answer", Buffer.concat(chunks).toString("utf8"));
}

function identityOf({ spec, machineId, agentKey }: VmRecord) {
  const names = { hostname: spec.sandboxId, machineId, agentKey, sandboxId: spec.sandboxId };
  return { entropyBase64: randomBytes(64).toString("base64"), wallClockMs: Date.now(), ...names };
}
