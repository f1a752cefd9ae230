/**
 * The host's own calls: what makes a restored guest this sandbox's, before user code runs, and what makes a pause safe.
 *
 * G1  The order is: entropy, clock, disk, names, thaw, kernel reseeded, key. User requests are refused until the key is set, so nothing of the user's runs before.
 * G2  A fresh guest (`post-boot`: booted, or with the memory of a golden snapshot) is nobody's: it holds no secret and has no disk attached. It becomes a sandbox's once.
 * G3  Before a pause the users' processes are frozen first, then file systems are synced; `synced` says that it really happened.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { Config } from "./config.ts";
import type { Environment } from "./environment.ts";
import { AgentError, invalidRequest, optionalString, secondsField, stringField, stringMap } from "./errors.ts";
import type { LineProcess } from "./line-process.ts";
import type { PythonKernel } from "./python-kernel.ts";
import type { KeyHolder, Request, Route } from "./server.ts";

export interface Identity extends KeyHolder {
  sandboxId: string | undefined;
}

export interface IdentityDeps {
  config: Config;
  environment: Environment;
  kernel: PythonKernel;
  identity: Identity;
  /** guest_helper.py: what Node has no call for. */
  helper: LineProcess;
}

const MIN_ENTROPY_BYTES = 32;
const HELPER_LIMIT_MS = 10_000;
const ATTACH_LIMIT_MS = 30_000;

export function identityRoutes(deps: IdentityDeps): Route[] {
  const route = (path: string, handle: (request: Request) => Promise<unknown>): Route => ({
    method: "POST",
    path: `/_torpor/${path}`,
    access: "control",
    handle,
  });
  return [
    route("prepare-pause", (request) => preparePause(deps, request)),
    route("thaw", async () => ({ thawed: await setFrozen(deps.config, false, 2_000) })),
    route("post-restore", (request) => becomeSandbox(deps, request, false)),
    route("post-boot", (request) => becomeSandbox(deps, request, true)),
    route("warm", () => warm(deps)),
    route("shutdown", () => shutDown(deps)),
  ];
}

async function preparePause(deps: IdentityDeps, request: Request) {
  const timeoutMs = secondsField(request.body, "timeoutMs", 2_000, 60_000);
  const frozen = await setFrozen(deps.config, true, timeoutMs);
  const synced = await helperCall(deps.helper, { type: "sync" }, 30_000);
  return { frozen, synced };
}

async function becomeSandbox(deps: IdentityDeps, request: Request, isFresh: boolean) {
  const entropy = Buffer.from(stringField(request.body, "entropyBase64"), "base64");
  if (entropy.length < MIN_ENTROPY_BYTES) throw invalidRequest(`"entropyBase64" must hold at least ${MIN_ENTROPY_BYTES} bytes`);
  const wallClockMs = request.body["wallClockMs"];
  if (typeof wallClockMs !== "number") throw invalidRequest('"wallClockMs" must be a number');
  const agentKey = stringField(request.body, "agentKey");
  const rngReseeded = await helperCall(deps.helper, { type: "reseed", entropy: entropy.toString("hex") }, HELPER_LIMIT_MS);
  if (!rngReseeded) throw new AgentError(409, "RESEED_FAILED", "the kernel's random number generator could not be reseeded");
  const clockStepMs = wallClockMs - Date.now();
  await helperCall(deps.helper, { type: "set_clock", wallClockMs }, HELPER_LIMIT_MS);
  if (isFresh) await attachDisk(deps);
  await setNames(deps, optionalString(request.body, "hostname"), optionalString(request.body, "machineId"));
  if (request.body["envVars"] !== undefined) deps.environment.merge(stringMap(request.body, "envVars"));
  deps.identity.sandboxId = optionalString(request.body, "sandboxId") ?? deps.identity.sandboxId;
  await setFrozen(deps.config, false, 2_000);
  // A warm kernel out of a golden snapshot has its siblings' generators. Nothing of a user's has run in it yet (G1).
  const kernelReseeded = isFresh ? await deps.kernel.reseed() : false;
  keepKey(deps, agentKey);
  return { ok: true, rngReseeded, kernelReseeded, clockStepMs };
}

/** From here on `/` is the image with the sandbox's own disk above it. */
async function attachDisk({ config, environment, helper }: IdentityDeps): Promise<void> {
  if (config.disk === undefined) return;
  if (!(await helperCall(helper, { type: "attach_disk", ...config.disk }, ATTACH_LIMIT_MS))) {
    throw new AgentError(409, "DISK_NOT_ATTACHED", "the sandbox's disk could not be attached; see the guest's console");
  }
  environment.load();
}

/** In memory, and in a file for the agent that takes over when user code has killed this one. */
function keepKey({ config, identity }: IdentityDeps, agentKey: string): void {
  identity.agentKey = agentKey;
  if (config.keyFile !== undefined) writeFileSync(config.keyFile, agentKey, { mode: 0o600 });
}

async function setNames(deps: IdentityDeps, hostname: string | undefined, machineId: string | undefined): Promise<void> {
  if (deps.config.userCgroup === undefined) return;
  if (hostname !== undefined) {
    await helperCall(deps.helper, { type: "set_hostname", hostname }, HELPER_LIMIT_MS);
    writeFileSync("/etc/hostname", `${hostname}\n`);
    writeFileSync("/etc/hosts", `127.0.0.1\tlocalhost\n127.0.1.1\t${hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n`);
  }
  if (machineId !== undefined) writeFileSync("/etc/machine-id", `${machineId}\n`);
}

/** For the golden snapshot: everything that a first execution would wait for, done once. */
async function warm(deps: IdentityDeps) {
  await deps.kernel.warm();
  await helperCall(deps.helper, { type: "sync" }, 30_000);
  return { ok: true };
}

/** Answers, then ends the machine: users' processes first, then files on disk, then power off. */
async function shutDown(deps: IdentityDeps) {
  await setFrozen(deps.config, false, 2_000);
  await killUserProcesses(deps.config);
  const synced = await helperCall(deps.helper, { type: "sync" }, 30_000);
  setTimeout(() => deps.helper.tell({ type: "power_off" }), 50);
  return { ok: true, synced };
}

async function killUserProcesses(config: Config): Promise<void> {
  if (config.userCgroup === undefined) return;
  for (const [signal, limitMs] of [
    ["SIGTERM", 2_000],
    ["SIGKILL", 2_000],
  ] as const) {
    const deadline = Date.now() + limitMs;
    while (Date.now() < deadline) {
      const pids = processesIn(config.userCgroup);
      if (pids.length === 0) return;
      for (const pid of pids) kill(pid, signal);
      await sleep(50);
    }
  }
}

function processesIn(cgroup: string): number[] {
  return readFileSync(`${cgroup}/cgroup.procs`, "utf8").split("\n").filter(Boolean).map(Number);
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It ended by itself.
  }
}

/** Freezes or thaws the users' cgroup and waits until the kernel says so. True when it is as asked. */
async function setFrozen(config: Config, frozen: boolean, limitMs: number): Promise<boolean> {
  if (config.userCgroup === undefined || !existsSync(`${config.userCgroup}/cgroup.freeze`)) return false;
  writeFileSync(`${config.userCgroup}/cgroup.freeze`, frozen ? "1" : "0");
  const deadline = Date.now() + limitMs;
  const isAsAsked = () => readFileSync(`${config.userCgroup}/cgroup.events`, "utf8").includes(`frozen ${frozen ? 1 : 0}`);
  while (!isAsAsked()) {
    if (Date.now() > deadline) return false;
    await sleep(5);
  }
  return true;
}

async function helperCall(helper: LineProcess, body: Record<string, unknown>, limitMs: number): Promise<boolean> {
  const limit = sleep(limitMs, undefined, { ref: false });
  const answer = await Promise.race([helper.request(body).done, limit]);
  return answer?.["ok"] === true;
}
