/** The driver of QEMU: with KVM if it boots a kernel, with software emulation (TCG) otherwise. */
import { claimPort, isAlive, messageOf, residentBytes } from "@torpor/service";
import { open, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { durableStep } from "../../host/durable-step.ts";
import type { Isolation } from "../../host/isolation.ts";
import type { GuestAddress } from "../../guest-connection.ts";
import { wrongHash, wrongSize } from "../../snapshot-files.ts";
import { causeByRun } from "../cause.ts";
import type {
  CauseOfEnd,
  Driver,
  Restored,
  SavedMemory,
  SnapshotFile,
  SnapshotFiles,
  Vm,
  VmmStatus,
} from "../driver.ts";
import { readTail, trimLogs } from "../logs.ts";
import {
  assignRun,
  endVmm,
  type ExitFacts,
  findGuestAddress,
  findLiveRun,
  INHERITED,
  stderrTail,
  liveRun,
  nextRunDir,
  killOnError,
  type VmmRun,
  socketPathOf,
  startVmm,
} from "../vmm-process.ts";
import {
  type Accelerator,
  MACHINE,
  qemuArguments,
  TCG_CPU,
  TRANSLATION_CACHE_MIB,
} from "./command-line.ts";
import { qemuVersion } from "./version.ts";
import { receiveMemory } from "./memory-stream.ts";
import { qmp } from "./qmp.ts";

const START_LIMIT_MS = 15_000;
const MIGRATION_LIMIT_MS = 300_000;
const CALL_OFF_LIMIT_MS = 60_000;
const MONITOR_LOOK_MS = 5;
const STATUS_LIMIT_MS = 5_000;
const UNLIMITED_BANDWIDTH = 1024 ** 4;
const MEMORY_FILE = "memory";
const LOG_TAIL_BYTES = 64 * 1024;
/** Memory of QEMU itself, and the page cache of what it reads and writes. */
const OVERHEAD_MIB = 256;

export interface QemuOptions {
  bin: string;
  accelerator: Accelerator;
  isolation: Isolation;
}

export class QemuDriver implements Driver {
  readonly name = "qemu";
  private readonly options: QemuOptions;

  constructor(options: QemuOptions) {
    this.options = options;
  }

  async fingerprint(): Promise<string> {
    const version = await qemuVersion(this.options.bin);
    const cpu = this.options.accelerator === "kvm" ? await hostCpu() : TCG_CPU;
    // The guest's network device depends on its backend: a tap offers offloads that QEMU's own
    // network does not.
    const network = this.options.isolation.networkKind === "namespace" ? ["tap"] : [];
    return ["qemu", version, MACHINE, this.options.accelerator, cpu, ...network]
      .join("/")
      .replaceAll(/[^A-Za-z0-9./_-]+/g, "_");
  }

  async restorable(): Promise<string[]> {
    return [await this.fingerprint()];
  }

  async refusal(fingerprint: string): Promise<string | undefined> {
    const own = await this.fingerprint();
    return fingerprint === own
      ? undefined
      : `it was taken on ${fingerprint}; this host runs ${own}`;
  }

  async boot(vm: Vm, signal: AbortSignal, beforeRun?: () => Promise<void>): Promise<void> {
    const record = await this.launch(vm, undefined, signal);
    await killOnError(this, vm, async () => {
      await beforeRun?.();
      await durableStep("run vcpus", () => qmp(monitor(vm, record), [{ execute: "cont" }]));
    });
  }

  async restore(
    vm: Vm,
    snapshotDir: string,
    { files }: SavedMemory,
    signal: AbortSignal,
  ): Promise<Restored> {
    if (files[MEMORY_FILE] === undefined)
      return { kind: "refused", reason: `the manifest names no file "${MEMORY_FILE}"` };
    const wrong =
      (await wrongSize(snapshotDir, files)) ??
      (await killOnError(this, vm, () => this.load(vm, snapshotDir, files, signal)));
    if (wrong === undefined) return { kind: "restored" };
    await this.end(vm, { graceMs: 0 });
    return { kind: "refused", reason: wrong };
  }

  async assign(vm: Vm): Promise<void> {
    await this.options.isolation.admit(vm);
    await assignRun(vm);
  }

  async inspect(vm: Vm): Promise<VmmStatus> {
    const record = await findLiveRun(vm);
    if (record === undefined) return { kind: "none" };
    const facts = { pid: record.pid, residentBytes: residentBytes(record.pid) };
    try {
      const query = [{ execute: "query-status" }];
      const { running } = await qmp(monitor(vm, record), query, STATUS_LIMIT_MS);
      if (running === undefined) throw new Error("QEMU does not say whether it runs");
      return { kind: running ? "running" : "paused", ...facts };
    } catch (error) {
      if (!isAlive(record)) return { kind: "none" };
      return {
        kind: "unknown",
        ...facts,
        reason: messageOf(error),
      };
    }
  }

  async isAlive(vm: Vm): Promise<boolean> {
    return (await findLiveRun(vm)) !== undefined;
  }

  async pauseVcpus(vm: Vm): Promise<void> {
    const record = await liveRun(vm);
    await durableStep("pause vcpus", () => qmp(monitor(vm, record), [{ execute: "stop" }]));
  }

  /**
   * A save that is under way would continue as one of a running VM, and pause the vCPUs at its end.
   */
  async resumeVcpus(vm: Vm): Promise<void> {
    const record = await liveRun(vm);
    await callOffMigration(vm, record);
    await durableStep("run vcpus", () => qmp(monitor(vm, record), [{ execute: "cont" }]));
  }

  async saveMemory(vm: Vm, dir: string, signal: AbortSignal): Promise<SavedMemory> {
    const record = await liveRun(vm);
    await callOffMigration(vm, record, signal);
    await this.takeDisksBack(vm, record);
    const memory = await durableStep("save memory", () =>
      this.drain(vm, record, join(dir, MEMORY_FILE), signal),
    );
    return { files: { [MEMORY_FILE]: memory }, fingerprint: record.fingerprint };
  }

  async callOffSave(vm: Vm): Promise<void> {
    await callOffMigration(vm, await liveRun(vm));
  }

  async end(vm: Vm, options: { graceMs: number; signal?: AbortSignal }): Promise<void> {
    await endVmm(vm, options);
    await this.options.isolation.release(vm);
  }

  async guestAddress(vm: Vm): Promise<GuestAddress | undefined> {
    return await findGuestAddress(vm);
  }

  async trimLogs(vm: Vm): Promise<void> {
    const runs = (await readdir(vm.dir)).filter((name) => /^r\d+$/.test(name));
    await trimLogs(
      runs.flatMap((name) => ["serial.log", "stderr.log"].map((log) => join(vm.dir, name, log))),
    );
  }

  async causeOfEnd(vm: Vm): Promise<CauseOfEnd> {
    return await causeByRun(vm, async ({ runDir }, exit) => {
      const tail = (name: string) => readTail(join(vm.dir, runDir, name), LOG_TAIL_BYTES);
      return causeOf(exit, await tail("stderr.log"), await tail("serial.log"));
    });
  }

  /**
   * Starts a QEMU with paused vCPUs: before the first instruction of a boot, or waiting for the
   * memory image that is open as `memory`.
   */
  private async launch(vm: Vm, memory: number | undefined, signal: AbortSignal): Promise<VmmRun> {
    await endVmm(vm, { graceMs: 0 });
    const { bin, isolation, accelerator } = this.options;
    const needs =
      accelerator === "kvm"
        ? { devices: ["/dev/kvm"] }
        : { devices: [], overheadMib: OVERHEAD_MIB + TRANSLATION_CACHE_MIB };
    const enclosure = await isolation.enclose(vm, needs);
    const runDir = await nextRunDir(vm, enclosure.uid);
    const { network } = enclosure;
    using claims = new DisposableStack();
    const control =
      network.kind === "namespace"
        ? network.control
        : { host: "127.0.0.1", port: claims.use(await claimPort()).port };
    const guest = { kind: "tcp", ...control } as const;
    const args = qemuArguments(vm, {
      accelerator,
      runDir,
      network,
      guestPort: control.port,
      incoming: memory !== undefined,
    });
    const facts = { runDir, guest, fingerprint: await this.fingerprint() };
    return await killOnError(this, vm, async () => {
      const inherits = memory === undefined ? {} : { inherits: memory };
      const record = await startVmm(
        vm,
        { command: bin, args, enclosure, ...inherits },
        facts,
        signal,
      );
      await waitForMonitor(vm, record);
      return record;
    });
  }

  /**
   * Starts a QEMU with that memory. Returns why the image is not the expected one, or undefined. If
   * it throws, the caller ends the VMM.
   *
   * QEMU reads the file itself and silently restores a flipped bit, so a second read computes the
   * hash at the same time. This detects a damaged file, but not a page that leaves the page cache
   * between the two reads and comes back different.
   */
  private async load(
    vm: Vm,
    snapshotDir: string,
    files: SnapshotFiles,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const over = new AbortController();
    const either = AbortSignal.any([signal, over.signal]);
    const checked = wrongHash(snapshotDir, files, either);
    const loaded = this.loadFile(vm, join(snapshotDir, MEMORY_FILE), either);
    // The load may fail because the image is damaged. The damage is then the reason to report.
    loaded.catch(() => {});
    try {
      const wrong = await checked;
      if (wrong === undefined) await loaded;
      return wrong;
    } finally {
      over.abort();
      await Promise.allSettled([checked, loaded]);
    }
  }

  private async loadFile(vm: Vm, file: string, signal: AbortSignal): Promise<void> {
    const memory = await open(file, "r");
    try {
      const record = await this.launch(vm, memory.fd, signal);
      await qmp(monitor(vm, record), [
        { execute: "migrate-incoming", arguments: { uri: `fd:${INHERITED}` } },
      ]);
      await migrationEnd(vm, record, signal);
    } finally {
      await memory.close();
    }
  }

  /**
   * After a save, QEMU has released its disks and writes to none until it has run. So a repeated
   * save (the agent died in between) lets the vCPUs run for a moment. The guest is quiesced, and
   * what its kernel does is in memory and on disk alike.
   */
  private async takeDisksBack(vm: Vm, record: VmmRun): Promise<void> {
    const { status } = await qmp(monitor(vm, record), [{ execute: "query-status" }]);
    if (status === "postmigrate")
      await qmp(monitor(vm, record), [{ execute: "cont" }, { execute: "stop" }]);
  }

  /** Saves the memory of QEMU to `file`. */
  private async drain(
    vm: Vm,
    record: VmmRun,
    file: string,
    signal: AbortSignal,
  ): Promise<SnapshotFile> {
    const socket = join(record.runDir, "out.sock");
    const failed = new AbortController();
    const receiver = await receiveMemory(
      socketPathOf(vm, record, socket),
      file,
      this.options.isolation.uid,
      AbortSignal.any([signal, failed.signal]),
    );
    try {
      await qmp(monitor(vm, record), [
        { execute: "migrate-set-parameters", arguments: { "max-bandwidth": UNLIMITED_BANDWIDTH } },
        { execute: "migrate", arguments: { uri: `unix:${socket}` } },
      ]);
      // Both ends have to confirm: QEMU that it sent everything, the writer that everything is on
      // disk.
      const [memory] = await Promise.all([receiver.received, migrationEnd(vm, record, signal)]);
      return memory;
    } catch (error) {
      failed.abort();
      await callOffMigration(vm, record).catch(() => {});
      throw new Error("the memory image could not be written", { cause: error });
    } finally {
      receiver.close();
    }
  }
}

function monitor(vm: Vm, record: VmmRun): string {
  return socketPathOf(vm, record, join(record.runDir, "qmp.sock"));
}

async function waitForMonitor(vm: Vm, record: VmmRun): Promise<void> {
  const deadline = performance.now() + START_LIMIT_MS;
  for (;;) {
    try {
      await qmp(monitor(vm, record), [{ execute: "query-status" }], 2_000);
      return;
    } catch (cause) {
      if (!isAlive(record))
        throw new Error(`QEMU ended while starting: ${await stderrTail(vm, record.runDir)}`, {
          cause,
        });
      if (performance.now() > deadline)
        throw new Error(`QEMU did not open its monitor within ${START_LIMIT_MS} ms`, { cause });
      await sleep(MONITOR_LOOK_MS);
    }
  }
}

const UNDER_WAY: ReadonlySet<string> = new Set([
  "setup",
  "active",
  "pre-switchover",
  "device",
  "cancelling",
]);

/**
 * Ends a save. A save of an earlier agent continues without it: the writer is a separate process,
 * which ends when QEMU closes its connection.
 */
async function callOffMigration(vm: Vm, record: VmmRun, signal?: AbortSignal): Promise<void> {
  const deadline = performance.now() + CALL_OFF_LIMIT_MS;
  for (;;) {
    const { status } = await qmp(monitor(vm, record), [{ execute: "query-migrate" }]);
    if (!UNDER_WAY.has(status ?? "")) return;
    if (performance.now() > deadline)
      throw new Error(`an earlier save did not end within ${CALL_OFF_LIMIT_MS} ms`);
    await qmp(monitor(vm, record), [{ execute: "migrate_cancel" }]);
    // Only after the cancellation: a caller that gives up resumes the vCPUs next.
    signal?.throwIfAborted();
    await sleep(15);
  }
}

/** Waits until QEMU reports a migration, in or out, as completed. */
async function migrationEnd(vm: Vm, record: VmmRun, signal: AbortSignal): Promise<void> {
  const deadline = performance.now() + MIGRATION_LIMIT_MS;
  while (performance.now() < deadline) {
    signal.throwIfAborted();
    const seen = await qmp(monitor(vm, record), [{ execute: "query-migrate" }]);
    if (seen.status === "completed") return;
    if (seen.status === "failed" || seen.status === "cancelled")
      throw new Error(seen["error-desc"] ?? `the migration ${seen.status}`);
    await sleep(15);
  }
  throw new Error(`the migration did not end within ${MIGRATION_LIMIT_MS} ms`);
}

/**
 * Reason for QEMU's end. QEMU logs the signal that ended it, and exits with 0 when its guest
 * powered off or restarted.
 */
function causeOf(exit: ExitFacts | undefined, stderr: string, serial: string): CauseOfEnd {
  const said = stderr.trim().split("\n").at(-1)?.slice(-300) || "it said nothing";
  if (stderr.includes("terminating on signal"))
    return { code: "VMM_KILLED", message: `QEMU was told to end: ${said}.` };
  if (exit?.signal === "SIGKILL")
    return {
      code: "VMM_KILLED",
      message: "QEMU was killed (SIGKILL): by hand, or because the host's memory ran out.",
    };
  if (exit?.signal)
    return { code: "VMM_FAILED", message: `QEMU ended with ${exit.signal}: ${said}.` };
  if (exit?.code)
    return { code: "VMM_FAILED", message: `QEMU ended with code ${exit.code}: ${said}.` };
  if (serial.includes("Kernel panic - not syncing"))
    return { code: "GUEST_PANICKED", message: "The guest's kernel panicked." };
  if (exit !== undefined) return { code: "GUEST_POWERED_OFF", message: "The guest powered off." };
  return {
    code: "VMM_ENDED",
    message: "QEMU ended by itself: the guest powered off, or QEMU was killed.",
  };
}

async function hostCpu(): Promise<string> {
  const text = await readFile("/proc/cpuinfo", "utf8");
  return ["vendor_id", "cpu family", "model", "stepping"]
    .map((name) => new RegExp(`^${name}\\s*: (.*)$`, "m").exec(text)?.[1] ?? "?")
    .join("-");
}
