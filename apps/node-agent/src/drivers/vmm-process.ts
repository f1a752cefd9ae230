/**
 * The process of any VMM: started so that it outlives the agent, found again, ended for certain.
 *
 * VP1  The VMM has its own session and inherits nothing but a log file, and, for reading, the
 *      memory that it has to load: nothing that happens to the agent reaches it.
 * VP2  run.json identifies the process by pid, start time and boot. A process that a crash left
 *      without a record is found by its working directory and TORPOR_VMM in its environment.
 * - A run has its own directory, r<n>/, the only one that the VMM's user can write to. The VM's
 *   directory, records and snapshots belong to the agent.
 * VP4  After the signal no process is started: the signal is checked in the same turn of the event
 *      loop as the start.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, constants, openSync, realpathSync } from "node:fs";
import { readdir, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { once } from "node:events";
import { LRUCache } from "lru-cache";
import { type Static, Type } from "typebox";
import { durableStep } from "../host/durable-step.ts";
import type { GuestAddress } from "../guest-connection.ts";
import { makeDirectoryFor, writeDurably } from "../host/files.ts";
import { jsonReader } from "../host/json.ts";
import type { Enclosure } from "../host/isolation.ts";
import {
  findProcesses,
  identify,
  isAlive,
  type ProcessIdentity,
  signalProcess,
  waitUntilGone,
} from "@torpor/service";
import { type Driver, hostNameOf, type Vm } from "./driver.ts";
import { readTail } from "./logs.ts";

const MARK = "TORPOR_VMM";
const TERMINATE_LIMIT_MS = 3_000;
const KILL_LIMIT_MS = 10_000;
const LAST_WORDS_BYTES = 4_096;
const EXIT_LIMIT_MS = 1_000;
/** sun_path holds 108 bytes, the last of which is a zero. */
const MAX_SOCKET_PATH_BYTES = 107;

/** VMMs that this process started and has not ended, by VM directory. A new process has none. */
export const children = new Map<string, ChildProcess>();

const Port = Type.Integer({ minimum: 1, maximum: 65_535 });

/** The current run of a VM's VMM, in run.json. */
const VmmRun = Type.Object({
  pid: Type.Integer({ minimum: 1 }),
  startTime: Type.String(),
  bootId: Type.String(),
  /** Relative to the VM's directory. */
  runDir: Type.String({ pattern: "^r[0-9]+$" }),
  /** Address of the guest's agent during this run. */
  guest: Type.Union([
    Type.Object({ kind: Type.Literal("tcp"), host: Type.String(), port: Port }),
    Type.Object({
      kind: Type.Literal("vsock"),
      socketPath: Type.String(),
      port: Type.Integer({ minimum: 0 }),
    }),
  ]),
  /** Fingerprint of the running VMM, for the manifest of a snapshot that it writes. */
  fingerprint: Type.String(),
  /** Epoch of the sandbox's run. */
  epoch: Type.Optional(Type.Integer({ minimum: 0 })),
  /** Set if the fence freezes this run when the host's lease ends. */
  isFenced: Type.Optional(Type.Literal(true)),
});
export type VmmRun = Static<typeof VmmRun>;
const readRun = jsonReader(VmmRun);

export interface VmmCommand {
  command: string;
  args: string[];
  enclosure: Enclosure;
  /** An open file that the VMM inherits as descriptor INHERITED. */
  inherits?: number;
}

/** Descriptor of the inherited file in the VMM. */
export const INHERITED = 3;

export interface ExitFacts {
  code: number | null;
  signal: NodeJS.Signals | null;
}

/** The newest run, alive or not. */
export async function lastRun(vm: Vm): Promise<VmmRun | undefined> {
  return await readRun(join(vm.dir, "run.json"));
}

/** The run with a living process; undefined if there is none. */
export async function findLiveRun(vm: Vm): Promise<VmmRun | undefined> {
  const run = await lastRun(vm);
  return run !== undefined && isAlive(run) ? run : undefined;
}

export async function liveRun(vm: Vm): Promise<VmmRun> {
  const run = await findLiveRun(vm);
  if (run === undefined) throw new Error(`no VMM of ${vm.sandboxId} runs`);
  return run;
}

/**
 * Cache of the runs whose guests were reached last, by VM directory. While the process of a run
 * lives, no other run begins in its directory, so run.json still names it.
 */
const reached = new LRUCache<string, VmmRun>({ max: 1_000 });

/** Address of the guest agent on this host; undefined when no VMM runs. */
export async function findGuestAddress(vm: Vm): Promise<GuestAddress | undefined> {
  const known = reached.get(vm.dir);
  const run = known !== undefined && isAlive(known) ? known : await findLiveRun(vm);
  if (run !== undefined) reached.set(vm.dir, run);
  if (run?.guest.kind !== "vsock") return run?.guest;
  return { ...run.guest, socketPath: socketPathOf(vm, run, run.guest.socketPath) };
}

/**
 * Creates a directory for the next run, relative to the VM's. The previous one is kept for its
 * logs; older ones are removed.
 */
export async function nextRunDir(vm: Vm, uid: number | undefined): Promise<string> {
  const numbers = (await readdir(vm.dir)).flatMap((name) =>
    /^r\d+$/.test(name) ? [Number(name.slice(1))] : [],
  );
  const last = Math.max(0, ...numbers);
  for (const old of numbers.filter((number) => number < last))
    await rm(join(vm.dir, `r${old}`), { recursive: true, force: true });
  await makeDirectoryFor(join(vm.dir, `r${last + 1}`), uid);
  return `r${last + 1}`;
}

/**
 * Path of a socket that the VMM knows as `name`, relative to its working directory. If the whole
 * path is too long for a socket, it goes through /proc/<pid>/cwd.
 */
export function socketPathOf(vm: Vm, run: VmmRun, name: string): string {
  const path = join(vm.dir, name);
  return Buffer.byteLength(path) <= MAX_SOCKET_PATH_BYTES ? path : `/proc/${run.pid}/cwd/${name}`;
}

/**
 * Starts the process and makes its record durable (VP1, VP2, VP4). The VMM must not run its guest
 * before it gets the command to.
 */
export async function startVmm(
  vm: Vm,
  how: VmmCommand,
  facts: Pick<VmmRun, "runDir" | "guest" | "fingerprint">,
  signal: AbortSignal,
): Promise<VmmRun> {
  const pid = await durableStep("spawn vmm", async () => {
    signal.throwIfAborted();
    return spawnDetached(vm, how, facts.runDir);
  });
  const identity = identify(pid);
  if (identity === undefined)
    throw new Error(
      `${basename(how.command)} ended at once: ${await stderrTail(vm, facts.runDir)}`,
    );
  const record: VmmRun = { ...identity, ...facts, ...ownerOf(vm) };
  await writeDurably(join(vm.dir, "run.json"), JSON.stringify(record));
  return record;
}

const ownerOf = ({ epoch, isFenced }: Vm): Pick<VmmRun, "epoch" | "isFenced"> => ({
  ...(epoch === undefined ? {} : { epoch }),
  ...(isFenced === true ? { isFenced } : {}),
});

/** Assigns the run of a warm VM to the sandbox of `vm`, durably. Throws if the process is gone. */
export async function assignRun(vm: Vm): Promise<void> {
  const record: VmmRun = { ...(await liveRun(vm)), ...ownerOf(vm) };
  await writeDurably(join(vm.dir, "run.json"), JSON.stringify(record));
}

/** Moves the entry of a VM whose directory was renamed: the process in it is the same. */
export function moveVmm(from: string, to: string): void {
  const child = children.get(from);
  if (child === undefined) return;
  children.delete(from);
  children.set(to, child);
}

function spawnDetached(vm: Vm, how: VmmCommand, runDir: string): number {
  const log = openSync(
    join(vm.dir, runDir, "stderr.log"),
    constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND | constants.O_NOFOLLOW,
    0o600,
  );
  try {
    const [command, ...args] = how.enclosure.wrap(how.command, how.args);
    const child = spawn(command, args, {
      cwd: vm.dir,
      detached: true,
      stdio: ["ignore", log, log, ...(how.inherits === undefined ? [] : [how.inherits])],
      env: { PATH: process.env["PATH"] ?? "", [MARK]: hostNameOf(vm) },
    });
    child.once("error", () => {});
    child.unref();
    children.set(vm.dir, child);
    if (child.pid === undefined)
      throw new Error(`${how.command} cannot be started: install it, or configure where it is`);
    return child.pid;
  } finally {
    closeSync(log);
  }
}

/** Exit of the VM's process, if it was a child of this process and ended by itself. */
export async function exitOf(vm: Vm): Promise<ExitFacts | undefined> {
  const child = children.get(vm.dir);
  if (child === undefined) return undefined;
  if (child.exitCode === null && child.signalCode === null)
    // The kernel knows of the exit a moment before Node reports it.
    await once(child, "exit", { signal: AbortSignal.timeout(EXIT_LIMIT_MS) }).catch(() => {});
  return { code: child.exitCode, signal: child.signalCode };
}

/** Ends the VM's process, recorded or orphaned, and returns when it is gone. */
export async function endVmm(
  vm: Vm,
  options: { graceMs: number; signal?: AbortSignal },
): Promise<void> {
  children.delete(vm.dir);
  const run = await lastRun(vm);
  if (
    run !== undefined &&
    (await waitUntilGone(run, options.graceMs, options.signal)) &&
    options.graceMs > 0
  )
    return;
  const ours = run !== undefined && isAlive(run) ? [run] : [];
  for (const identity of [...ours, ...orphanRuns(vm, run)]) {
    await durableStep("end vmm", () => endProcess(vm, identity));
  }
}

/** Runs `body`, and ends the VM's VMM if `body` throws. */
export async function killOnError<T>(
  driver: Pick<Driver, "end">,
  vm: Vm,
  body: () => Promise<T>,
): Promise<T> {
  try {
    return await body();
  } catch (error) {
    await driver.end(vm, { graceMs: 0 });
    throw error;
  }
}

async function endProcess(vm: Vm, identity: ProcessIdentity): Promise<void> {
  signalProcess(identity, "SIGTERM");
  if (await waitUntilGone(identity, TERMINATE_LIMIT_MS)) return;
  signalProcess(identity, "SIGKILL");
  if (await waitUntilGone(identity, KILL_LIMIT_MS)) return;
  throw new Error(
    `process ${identity.pid} of ${vm.sandboxId} cannot be ended: it may hang in the kernel`,
  );
}

function orphanRuns(vm: Vm, known: VmmRun | undefined): ProcessIdentity[] {
  let directory: string;
  try {
    directory = realpathSync(vm.dir);
  } catch {
    return [];
  }
  return findProcesses(directory, MARK, hostNameOf(vm)).filter(
    (found) => found.pid !== known?.pid || found.startTime !== known.startTime,
  );
}

/** The end of the VMM's standard error, for a message. */
export async function stderrTail(vm: Vm, runDir: string): Promise<string> {
  const text = await readTail(join(vm.dir, runDir, "stderr.log"), LAST_WORDS_BYTES).catch(() => "");
  return text.trim().split("\n").slice(-3).join(" | ") || "it said nothing";
}
