/**
 * Control calls of the host: they give a restored guest the identity of this sandbox before user
 * code runs, and make a pause safe.
 *
 * G1  The order is: entropy, clock, disk, names, connections, resume of the users' processes,
 *     kernel reseeded, key. User requests are refused until the key is set, so no user code runs
 *     before.
 * G2  A fresh guest (`post-boot`: booted, or restored from a golden snapshot) belongs to no
 *     sandbox: it holds no secret and has no disk attached. It becomes a sandbox's once. Only a
 *     start attaches a disk and sets names: a resume changes nothing that a user can have written.
 * G3  Before a pause, the users' processes are suspended first, then the file systems are synced;
 *     `synced` reports that the sync succeeded.
 */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { GuestActivity } from "../activity.ts";
import type { GuestAgentConfig } from "../config.ts";
import type { Environment } from "../environment.ts";
import { AgentError, invalidRequest } from "../errors.ts";
import type { PythonKernel } from "../execution/python-kernel.ts";
import { optionalString, secondsField, stringField, variablesField } from "../fields.ts";
import type { KeyHolder } from "../http/access.ts";
import type { Connections } from "../http/connections.ts";
import type { RoutedRequest, Route } from "../http/router.ts";
import { withLimit } from "../limits.ts";
import { HELPER_ENDED, type RestartingHelper } from "../line-process.ts";
import { type Names, writeNames } from "./names.ts";
import { killProcess, setFrozen, userProcesses } from "./user-cgroup.ts";

export interface GuestIdentity extends KeyHolder {
  sandboxId: string | undefined;
}

export interface IdentityDeps {
  config: GuestAgentConfig;
  environment: Environment;
  kernel: PythonKernel;
  identity: GuestIdentity;
  /** guest_helper.py: system calls that Node lacks. */
  helper: RestartingHelper;
  connections: Connections;
  activity: GuestActivity;
}

const MIN_ENTROPY_BYTES = 32;
const HELPER_LIMIT_MS = 10_000;
/** Signals that end the users' processes, each with the time that it has. */
const ENDING = [
  ["SIGTERM", 5_000],
  ["SIGKILL", 2_000],
] as const;
const ENDING_LOOK_MS = 50;
const ATTACH_LIMIT_MS = 30_000;
const WARM_CELL = "import os, sys, json, random, ssl\npass";

export function identityRoutes(deps: IdentityDeps): Route[] {
  const route = (path: string, handle: (request: RoutedRequest) => Promise<unknown>): Route => ({
    method: "POST",
    path: `/_torpor/${path}`,
    access: "control",
    handle,
  });
  return [
    route("prepare-pause", (request) => preparePause(deps, request)),
    route("thaw", () => thaw(deps)),
    route("post-restore", (request) => becomeSandbox(deps, request, false)),
    route("post-boot", (request) => becomeSandbox(deps, request, true)),
    route("warm", () => warm(deps)),
    route("shutdown", () => shutDown(deps)),
    {
      method: "GET",
      path: "/_torpor/activity",
      access: "control",
      handle: () => deps.activity.snapshot(),
    },
  ];
}

async function preparePause(deps: IdentityDeps, request: RoutedRequest) {
  const timeoutMs = secondsField(request.body, "timeoutMs", 2_000, 60_000);
  deps.connections.pauseBegins();
  const frozen = await setFrozen(deps.config.userCgroup, true, timeoutMs);
  const synced = await helperCall(deps.helper, { type: "sync" }, 30_000);
  return { frozen, synced };
}

async function thaw(deps: IdentityDeps) {
  deps.connections.pauseEnds();
  return { thawed: await setFrozen(deps.config.userCgroup, false, 2_000) };
}

async function becomeSandbox(deps: IdentityDeps, request: RoutedRequest, isFresh: boolean) {
  const entropy = Buffer.from(stringField(request.body, "entropyBase64"), "base64");
  if (entropy.length < MIN_ENTROPY_BYTES)
    throw invalidRequest(`"entropyBase64" must hold at least ${MIN_ENTROPY_BYTES} bytes`);
  const wallClockMs = request.body["wallClockMs"];
  if (typeof wallClockMs !== "number") throw invalidRequest('"wallClockMs" must be a number');
  const agentKey = stringField(request.body, "agentKey");
  const clockStepMs = wallClockMs - Date.now();
  await freshen(deps.helper, entropy, wallClockMs);
  const names = { ...optionalName(request, "hostname"), ...optionalName(request, "machineId") };
  if (isFresh) await attachDisk(deps);
  if (isFresh) await setNames(deps, names);
  else
    await helperCall(
      deps.helper,
      { type: "break_connections", agentPort: deps.config.port },
      HELPER_LIMIT_MS,
    );
  if (request.body["envVars"] !== undefined)
    deps.environment.merge(variablesField(request.body, "envVars"));
  deps.identity.sandboxId = optionalString(request.body, "sandboxId") ?? deps.identity.sandboxId;
  await setFrozen(deps.config.userCgroup, false, 2_000);
  deps.connections.severOthers(request.incoming.socket);
  // A warm kernel of a golden snapshot has the same generators as every other kernel of it. No user
  // code has run in it yet (G1).
  const kernelReseeded = isFresh ? await deps.kernel.becomeOwn() : false;
  keepKey(deps, agentKey);
  return { ok: true, rngReseeded: true, kernelReseeded, clockStepMs };
}

/**
 * Gives new entropy to the system's generator. The step of the clock renews the generators of
 * programs that are older than this sandbox (infra/images/code-interpreter/init).
 */
async function freshen(
  helper: RestartingHelper,
  entropy: Buffer,
  wallClockMs: number,
): Promise<void> {
  if (
    !(await helperCall(
      helper,
      { type: "reseed", entropy: entropy.toString("hex") },
      HELPER_LIMIT_MS,
    ))
  )
    throw new AgentError(
      409,
      "RESEED_FAILED",
      "the kernel's random number generator could not be reseeded",
    );
  if (!(await helperCall(helper, { type: "set_clock", wallClockMs }, HELPER_LIMIT_MS)))
    throw new AgentError(409, "CLOCK_NOT_SET", "the guest's clock could not be set");
}

/** After this, `/` is the image with the sandbox's own disk above it. */
async function attachDisk({ config, environment, helper }: IdentityDeps): Promise<void> {
  if (config.disk === undefined) return;
  if (!(await helperCall(helper, { type: "attach_disk", ...config.disk }, ATTACH_LIMIT_MS))) {
    throw new AgentError(
      409,
      "DISK_NOT_ATTACHED",
      "the sandbox's disk could not be attached; see the guest's console",
    );
  }
  environment.load();
  // Removes uploads that the last stop cut off.
  rmSync(config.uploadDir, { recursive: true, force: true });
}

/** Keeps the key in memory, and in a file for the next agent if user code kills this one. */
function keepKey({ config, identity }: IdentityDeps, agentKey: string): void {
  identity.agentKey = agentKey;
  mkdirSync(dirname(config.keyFile), { recursive: true });
  writeFileSync(config.keyFile, agentKey, { mode: 0o600 });
}

function optionalName({ body }: RoutedRequest, name: "hostname" | "machineId"): Names {
  const value = optionalString(body, name);
  return value === undefined ? {} : { [name]: value };
}

async function setNames({ config, helper }: IdentityDeps, names: Names): Promise<void> {
  const hostname = writeNames(config, names);
  // The agent must not rename an ordinary machine (tests).
  if (hostname === undefined || config.userCgroup === undefined) return;
  await helperCall(helper, { type: "set_hostname", hostname }, HELPER_LIMIT_MS);
}

/**
 * Does once, for the golden snapshot, what a first execution would otherwise wait for. A guest that
 * is not warm must not become a golden snapshot: every sandbox of it would be slow.
 */
async function warm(deps: IdentityDeps) {
  const failure = await deps.kernel.warm(WARM_CELL);
  if (failure !== undefined)
    throw new AgentError(
      503,
      "SERVICE_UNAVAILABLE",
      `The Python kernel could not be warmed up: ${failure}`,
    );
  await helperCall(deps.helper, { type: "sync" }, 30_000);
  return { ok: true };
}

/** Responds, then ends the machine: users' processes first, then a sync, then power off. */
async function shutDown(deps: IdentityDeps) {
  await setFrozen(deps.config.userCgroup, false, 2_000);
  await endUserProcesses(deps.config);
  const synced = await helperCall(deps.helper, { type: "sync" }, 30_000);
  setTimeout(() => deps.helper.current.tell({ type: "power_off" }), 50);
  return { ok: true, synced };
}

/**
 * Ends the users' processes: SIGTERM, and SIGKILL for what is left after a while. Each process gets
 * each signal once, also one that is started meanwhile: many programs take a second SIGTERM as an
 * order to end at once, and would not save what they have.
 */
async function endUserProcesses({ userCgroup }: GuestAgentConfig): Promise<void> {
  for (const [signal, limitMs] of ENDING) {
    const signalled = new Set<number>();
    const deadline = performance.now() + limitMs;
    while (performance.now() < deadline) {
      const pids = userProcesses(userCgroup);
      if (pids.length === 0) return;
      for (const pid of pids.filter((one) => !signalled.has(one))) killProcess(pid, signal);
      for (const pid of pids) signalled.add(pid);
      await sleep(ENDING_LOOK_MS);
    }
  }
}

/**
 * Calls the helper, and repeats the call with a new helper if the helper ended: user code may have
 * killed it just before. All calls are idempotent.
 */
async function helperCall(
  helper: RestartingHelper,
  body: Record<string, unknown>,
  limitMs: number,
): Promise<boolean> {
  const ask = () => withLimit(helper.current.request(body), limitMs);
  const answer = await ask();
  const last = answer?.["error"] === HELPER_ENDED ? await ask() : answer;
  return last?.["ok"] === true;
}
