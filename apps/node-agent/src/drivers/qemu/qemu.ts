/** QEMU as a driver: KVM where it boots a kernel, software emulation (TCG) elsewhere. */
import { execFile, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:net";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { makeDirectoryFor, readJson, writeDurably } from "../../host/files.ts";
import { identify, isAlive, type ProcessIdentity, residentBytes, signalProcess, waitUntilGone } from "../../host/processes.ts";
import type { Driver, Restored, SnapshotFiles, Vm, VmmStatus } from "../driver.ts";
import { type Accelerator, MACHINE, qemuArguments } from "./command-line.ts";
import { receiveMemory, sendMemory } from "./memory-stream.ts";
import { qmp } from "./qmp.ts";

const run = promisify(execFile);
const START_LIMIT_MS = 15_000;
const MIGRATION_LIMIT_MS = 300_000;
const UNLIMITED_BANDWIDTH = 1024 ** 4;
const MEMORY_FILE = "memory";

/** The current run of a VM's VMM, in run.json. */
interface RunRecord extends ProcessIdentity {
  /** Relative to the VM's directory. */
  runDir: string;
  guestPort: number;
}

export interface QemuOptions {
  bin: string;
  accelerator: Accelerator;
  /** VMMs run as this user; undefined when the agent itself is not root. */
  uid: number | undefined;
}

export class QemuDriver implements Driver {
  readonly name = "qemu";
  private readonly options: QemuOptions;

  constructor(options: QemuOptions) {
    this.options = options;
  }

  async fingerprint(): Promise<string> {
    const { stdout } = await run(this.options.bin, ["--version"]);
    const version = /version (\S+)/.exec(stdout)?.[1] ?? "unknown";
    const cpu = this.options.accelerator === "kvm" ? await hostCpu() : "max";
    return ["qemu", version, MACHINE, this.options.accelerator, cpu].join("/").replaceAll(/[^A-Za-z0-9./_-]+/g, "_");
  }

  async boot(vm: Vm, _signal: AbortSignal): Promise<void> {
    await this.launch(vm, false);
  }

  async restore(vm: Vm, snapshotDir: string, files: SnapshotFiles, signal: AbortSignal): Promise<Restored> {
    const expected = files[MEMORY_FILE];
    if (expected === undefined) return { kind: "refused", reason: `the manifest names no file "${MEMORY_FILE}"` };
    const record = await this.launch(vm, true);
    const refuse = async (reason: string): Promise<Restored> => {
      await this.end(vm, { graceMs: 0 });
      return { kind: "refused", reason };
    };
    try {
      const socket = join(record.runDir, "in.sock");
      await qmp(this.qmpSocket(vm, record), [{ execute: "migrate-incoming", arguments: { uri: `unix:${socket}` } }]);
      const wrong = await sendMemory(join(vm.dir, socket), join(snapshotDir, MEMORY_FILE), expected, signal);
      if (wrong !== undefined) return await refuse(wrong);
      await this.migrationEnd(vm, record, signal);
    } catch (error) {
      return await refuse(`QEMU did not take the memory image: ${error instanceof Error ? error.message : String(error)}`);
    }
    return { kind: "restored" };
  }

  async inspect(vm: Vm): Promise<VmmStatus> {
    const record = await this.record(vm);
    if (record === undefined || !isAlive(record)) return { kind: "none" };
    const facts = { pid: record.pid, residentBytes: residentBytes(record.pid) };
    try {
      const { running } = await qmp<{ running: boolean }>(this.qmpSocket(vm, record), [{ execute: "query-status" }], 5_000);
      return { kind: running ? "running" : "paused", ...facts };
    } catch (error) {
      if (!isAlive(record)) return { kind: "none" };
      return { kind: "unknown", ...facts, reason: error instanceof Error ? error.message : String(error) };
    }
  }

  async isAlive(vm: Vm): Promise<boolean> {
    const record = await this.record(vm);
    return record !== undefined && isAlive(record);
  }

  async pauseVcpus(vm: Vm): Promise<void> {
    await qmp(this.qmpSocket(vm, await this.liveRecord(vm)), [{ execute: "stop" }]);
  }

  async resumeVcpus(vm: Vm): Promise<void> {
    await qmp(this.qmpSocket(vm, await this.liveRecord(vm)), [{ execute: "cont" }]);
  }

  async saveMemory(vm: Vm, dir: string, signal: AbortSignal): Promise<SnapshotFiles> {
    const record = await this.liveRecord(vm);
    const socket = join(record.runDir, "out.sock");
    const failed = new AbortController();
    const receiver = await receiveMemory(join(vm.dir, socket), join(dir, MEMORY_FILE), this.options.uid, AbortSignal.any([signal, failed.signal]));
    try {
      await qmp(this.qmpSocket(vm, record), [
        { execute: "migrate-set-parameters", arguments: { "max-bandwidth": UNLIMITED_BANDWIDTH } },
        { execute: "migrate", arguments: { uri: `unix:${socket}` } },
      ]);
      // Both ends have to say so: QEMU that it sent everything, the writer that everything is on disk.
      const [memory] = await Promise.all([receiver.received, this.migrationEnd(vm, record, signal)]);
      return { [MEMORY_FILE]: memory };
    } catch (error) {
      failed.abort();
      await qmp(this.qmpSocket(vm, record), [{ execute: "migrate_cancel" }]).catch(() => {});
      throw new Error("the memory image could not be written", { cause: error });
    } finally {
      receiver.close();
    }
  }

  async end(vm: Vm, options: { graceMs: number }): Promise<void> {
    const record = await this.record(vm);
    if (record === undefined) return;
    if (await waitUntilGone(record, options.graceMs)) return;
    signalProcess(record, "SIGTERM");
    if (await waitUntilGone(record, 3_000)) return;
    signalProcess(record, "SIGKILL");
    if (!(await waitUntilGone(record, 10_000))) throw new Error(`QEMU process ${record.pid} of ${vm.sandboxId} cannot be ended: it may hang in the kernel`);
  }

  async guestAddress(vm: Vm): Promise<{ host: string; port: number } | undefined> {
    const record = await this.record(vm);
    return record === undefined || !isAlive(record) ? undefined : { host: "127.0.0.1", port: record.guestPort };
  }

  private async launch(vm: Vm, incoming: boolean): Promise<RunRecord> {
    if (await this.isAlive(vm)) throw new Error(`a VMM of ${vm.sandboxId} is running already; it has to be ended first`);
    const previous = await this.record(vm);
    const runDir = `r${Number(previous?.runDir.slice(1) ?? 0) + 1}`;
    await makeDirectoryFor(join(vm.dir, runDir), this.options.uid);
    const guestPort = await freePort();
    const args = qemuArguments(vm, { accelerator: this.options.accelerator, runDir, guestPort, incoming });
    const pid = this.spawnDetached(vm, runDir, args);
    const identity = identify(pid);
    if (identity === undefined) throw new Error(`QEMU ended at once: ${await this.lastWords(vm, runDir)}`);
    const record: RunRecord = { ...identity, runDir, guestPort };
    await writeDurably(join(vm.dir, "run.json"), JSON.stringify(record));
    await this.waitForMonitor(vm, record);
    return record;
  }

  /** In a session of its own, so that nothing that happens to the agent reaches it. */
  private spawnDetached(vm: Vm, runDir: string, args: string[]): number {
    const stderr = openSync(join(vm.dir, runDir, "stderr.log"), "a", 0o600);
    const { uid, bin } = this.options;
    const drop = ["--reuid", String(uid), "--regid", String(uid), "--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--"];
    const [command, commandArgs] = uid === undefined ? [bin, args] : ["setpriv", [...drop, bin, ...args]];
    try {
      const child = spawn(command, commandArgs, { cwd: vm.dir, detached: true, stdio: ["ignore", stderr, stderr], env: { PATH: process.env["PATH"] ?? "" } });
      child.once("error", () => {});
      child.unref();
      if (child.pid === undefined) throw new Error(`${bin} cannot be started: install QEMU, or set QEMU_BIN to where it is`);
      return child.pid;
    } finally {
      closeSync(stderr);
    }
  }

  private async waitForMonitor(vm: Vm, record: RunRecord): Promise<void> {
    const deadline = Date.now() + START_LIMIT_MS;
    for (;;) {
      try {
        await qmp(this.qmpSocket(vm, record), [{ execute: "query-status" }], 2_000);
        return;
      } catch (cause) {
        if (!isAlive(record)) throw new Error(`QEMU ended while starting: ${await this.lastWords(vm, record.runDir)}`, { cause });
        if (Date.now() > deadline) throw new Error(`QEMU did not open its monitor within ${START_LIMIT_MS} ms`, { cause });
        await sleep(20);
      }
    }
  }

  /** Waits for QEMU to call a migration, in or out, completed. */
  private async migrationEnd(vm: Vm, record: RunRecord, signal: AbortSignal): Promise<void> {
    const deadline = Date.now() + MIGRATION_LIMIT_MS;
    while (Date.now() < deadline) {
      signal.throwIfAborted();
      const seen = await qmp<{ status?: string; "error-desc"?: string }>(this.qmpSocket(vm, record), [{ execute: "query-migrate" }]);
      if (seen.status === "completed") return;
      if (seen.status === "failed" || seen.status === "cancelled") throw new Error(seen["error-desc"] ?? `the migration ${seen.status}`);
      await sleep(15);
    }
    throw new Error(`the migration did not end within ${MIGRATION_LIMIT_MS} ms`);
  }

  private async record(vm: Vm): Promise<RunRecord | undefined> {
    return await readJson<RunRecord>(join(vm.dir, "run.json"));
  }

  private async liveRecord(vm: Vm): Promise<RunRecord> {
    const record = await this.record(vm);
    if (record === undefined || !isAlive(record)) throw new Error(`no VMM of ${vm.sandboxId} runs`);
    return record;
  }

  private qmpSocket(vm: Vm, record: RunRecord): string {
    return join(vm.dir, record.runDir, "qmp.sock");
  }

  private async lastWords(vm: Vm, runDir: string): Promise<string> {
    const text = await readFile(join(vm.dir, runDir, "stderr.log"), "utf8").catch(() => "");
    return text.trim().split("\n").slice(-3).join(" | ") || `${basename(this.options.bin)} said nothing`;
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", resolve);
  });
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no free port on 127.0.0.1");
  return address.port;
}

async function hostCpu(): Promise<string> {
  const text = await readFile("/proc/cpuinfo", "utf8");
  return ["vendor_id", "cpu family", "model", "stepping"].map((name) => new RegExp(`^${name}\\s*: (.*)$`, "m").exec(text)?.[1] ?? "?").join("-");
}
