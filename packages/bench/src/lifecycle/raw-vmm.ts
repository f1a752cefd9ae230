/**
 * The VMM by itself: QEMU with a sandbox's arguments, kernel, root file system, memory, and a copy
 * of its disk, driven by QMP, with files that QEMU writes itself. The rest of an operation's time
 * is Torpor's.
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { link, mkdir, open, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { qemuArguments, qmp } from "@torpor/node-agent/qemu";
import { claimPort } from "@torpor/service";
import { Type } from "typebox";
import { Value } from "typebox/value";
import type { StageSample } from "./result.ts";

const run = promisify(execFile);
const MIGRATION_LIMIT_MS = 300_000;
const MONITOR_LIMIT_MS = 60_000;
const LOOK_MS = 5;
const UNLIMITED_BANDWIDTH = 1024 ** 4;
/** Relative to the directory of the run. */
const RUN = "r1";
const SAVED = "saved";
const NETWORK = 'ip tuntap add dev tap0 mode tap vnet_hdr && ip link set tap0 up && exec "$@"';

const Manifest = Type.Object({
  driverFingerprint: Type.String(),
  vcpu: Type.Integer(),
  memoryMib: Type.Integer(),
});
const Record = Type.Object({ kernelCmdline: Type.String(), generation: Type.Integer() });

export interface RawTimes {
  load: StageSample;
  save: StageSample;
}

/** Loads the memory of the paused sandbox in `vmDir`, resumes its vCPUs, and saves the memory. */
export async function measureRaw(
  vmDir: string,
  dir: string,
  signal: AbortSignal,
): Promise<RawTimes> {
  const record = Value.Parse(Record, await readJson(join(vmDir, "vm.json")));
  const snapshot = join(vmDir, `snap.${record.generation}`);
  const manifest = Value.Parse(Manifest, await readJson(join(snapshot, "manifest.json")));
  await rm(dir, { recursive: true, force: true });
  await mkdir(join(dir, RUN), { recursive: true });
  for (const name of ["kernel", "initrd", "rootfs.ext4"])
    await link(join(vmDir, name), join(dir, name));
  const disk = [join(vmDir, "disk.raw"), join(dir, "disk.raw")];
  await run("cp", ["--reflink=auto", "--sparse=always", "--", ...disk]);
  using port = await claimPort();
  const args = argumentsOf(record.kernelCmdline, manifest, port.port);
  const monitor = join(dir, RUN, "qmp.sock");
  const isTapped = manifest.driverFingerprint.endsWith("/tap");
  const began = performance.now();
  const qemu = isTapped
    ? start(dir, "unshare", ["--net", "sh", "-c", NETWORK, "sh", "qemu-system-x86_64", ...args])
    : start(dir, "qemu-system-x86_64", args);
  try {
    await untilAnswering(monitor, qemu, signal);
    const startedMs = performance.now();
    const uri = `exec:cat < '${join(snapshot, "memory")}'`;
    await qmp(monitor, [{ execute: "migrate-incoming", arguments: { uri } }]);
    await untilMigrated(monitor, signal);
    const loadedMs = performance.now();
    await qmp(monitor, [{ execute: "cont" }]);
    const ranMs = performance.now();
    const save = await timeSave(monitor, dir, signal);
    const endedMs = performance.now();
    qemu.kill("SIGKILL");
    await exitOf(qemu);
    return {
      load: {
        ms: ranMs - began,
        stages: { start: startedMs - began, load: loadedMs - startedMs, run: ranMs - loadedMs },
      },
      save: {
        ms: save.ms + performance.now() - endedMs,
        stages: { ...save.stages, end: performance.now() - endedMs },
      },
    };
  } finally {
    qemu.kill("SIGKILL");
    await exitOf(qemu);
    await rm(dir, { recursive: true, force: true });
  }
}

async function timeSave(monitor: string, dir: string, signal: AbortSignal): Promise<StageSample> {
  const file = join(dir, SAVED);
  const began = performance.now();
  await qmp(monitor, [
    { execute: "stop" },
    { execute: "migrate-set-parameters", arguments: { "max-bandwidth": UNLIMITED_BANDWIDTH } },
    { execute: "migrate", arguments: { uri: `exec:cat > '${file}'` } },
  ]);
  await untilMigrated(monitor, signal);
  const savedMs = performance.now();
  await sync(file);
  const ms = performance.now() - began;
  return { ms, stages: { save: savedMs - began, sync: ms - (savedMs - began) } };
}

function argumentsOf(
  kernelCmdline: string,
  {
    driverFingerprint,
    vcpu,
    memoryMib,
  }: { driverFingerprint: string; vcpu: number; memoryMib: number },
  guestPort: number,
): string[] {
  const vm = { dir: "", sandboxId: "raw", vcpu, memoryMib, kernelCmdline, internetAccess: false };
  const control = { host: "127.0.0.1", port: guestPort };
  const accelerator = driverFingerprint.includes("/kvm/") ? "kvm" : "tcg";
  const network = driverFingerprint.endsWith("/tap")
    ? ({ kind: "namespace", name: "raw", tap: "tap0", control } as const)
    : ({ kind: "user" } as const);
  const args = qemuArguments(vm, { accelerator, runDir: RUN, network, guestPort, incoming: true });
  // QEMU starts programs that write its files, which its sandbox option forbids.
  const sandbox = args.indexOf("-sandbox");
  return args.filter((_, at) => at !== sandbox && at !== sandbox + 1);
}

function start(dir: string, command: string, args: string[]): ChildProcess {
  const child = spawn(command, args, { cwd: dir, stdio: ["ignore", "ignore", "inherit"] });
  child.once("error", () => {});
  return child;
}

async function exitOf(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null && child.pid !== undefined)
    await once(child, "exit");
}

async function untilAnswering(
  monitor: string,
  qemu: ChildProcess,
  signal: AbortSignal,
): Promise<void> {
  const deadlineMs = performance.now() + MONITOR_LIMIT_MS;
  for (;;) {
    signal.throwIfAborted();
    try {
      await qmp(monitor, [{ execute: "query-status" }], 2_000);
      return;
    } catch (cause) {
      const hasEnded = qemu.exitCode !== null || qemu.pid === undefined;
      if (hasEnded || performance.now() > deadlineMs)
        throw new Error("the VMM by itself did not start: what it said is above", { cause });
    }
    await sleep(LOOK_MS);
  }
}

async function untilMigrated(monitor: string, signal: AbortSignal): Promise<void> {
  const deadlineMs = performance.now() + MIGRATION_LIMIT_MS;
  while (performance.now() < deadlineMs) {
    signal.throwIfAborted();
    const { status } = await qmp(monitor, [{ execute: "query-migrate" }]);
    if (status === "completed") return;
    if (status === "failed") throw new Error("the VMM by itself could not save or load its memory");
    await sleep(LOOK_MS);
  }
  throw new Error(`the VMM by itself needs more than ${MIGRATION_LIMIT_MS} ms for its memory`);
}

async function sync(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function readJson(path: string): Promise<unknown> {
  return JSON.parse(await readFile(path, "utf8"));
}
