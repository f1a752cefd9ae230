/**
 * The driver of Cloud Hypervisor. Each VM has one process, which the API configures. SIGTERM ends
 * the process: it is the VMM's own `vmm.shutdown`, and needs no socket.
 *
 * CH1  `vm.info` is the truth. Each verb reads the state, acts and reads the state again: a lost
 *      response, a repeated call and an error for a state already reached end in the same place.
 * - While a VMM writes or reads a snapshot, it replies to nothing. The VMM does not hang then.
 * CH3  Any failed boot or restore ends the process: no process is used twice.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { isAlive, residentBytes } from "@torpor/service";
import type { GuestAddress } from "../../guest-connection.ts";
import { durableStep } from "../../host/durable-step.ts";
import type { Enclosure, Isolation } from "../../host/isolation.ts";
import { causeByRun } from "../cause.ts";
import type { CauseOfEnd, Driver, Restored, SavedMemory, Vm, VmmStatus } from "../driver.ts";
import { readTail, trimLogs } from "../logs.ts";
import {
  assignRun,
  endVmm,
  findGuestAddress,
  findLiveRun,
  stderrTail,
  liveRun,
  nextRunDir,
  killOnError,
  type VmmRun,
  socketPathOf,
  startVmm,
} from "../vmm-process.ts";
import { cloudHypervisorApi, type CloudHypervisorApi, explain, type VmInfo } from "./api.ts";
import { differences, GUEST, vmConfig, type VmConfig } from "./config.ts";
import { dropTransfer, freshDirectories, isTransferring, SERIAL_LOG } from "./directories.ts";
import { causeOf, hasLostGuest, parseEvents, type VmmEvent } from "./events.ts";
import { fingerprintOf, type ProcessorFacts, incompatibility, versionIn } from "./fingerprint.ts";
import { loadFrom, misfit, saveTo } from "./memory.ts";
import type { Binaries, Binary } from "./versions.ts";

/** Limits of the waits for a VMM, in milliseconds. */
export interface VmmLimits {
  start: number;
  status: number;
  /** Create, boot, pause, resume. */
  verb: number;
  /** Writing or reading a snapshot: a base, and an addition for each 100 MiB of memory. */
  transfer: number;
  transferPer100Mib: number;
}

const LIMITS: VmmLimits = {
  start: 20_000,
  status: 5_000,
  verb: 30_000,
  transfer: 60_000,
  transferPer100Mib: 2_000,
};
const PING_LIMIT_MS = 2_000;
const PING_EVERY_MS = 10;
const LOG_TAIL_BYTES = 64 * 1024;

export interface CloudHypervisorOptions {
  binaries: Binaries;
  host: ProcessorFacts;
  isolation: Isolation;
  landlock: boolean;
  limits?: Partial<VmmLimits>;
}

export class CloudHypervisorDriver implements Driver {
  readonly name = "cloud-hypervisor";
  private readonly options: CloudHypervisorOptions;
  private readonly limits: VmmLimits;
  /** Directories of VMs whose memory is being written or read right now. */
  private readonly exchanging = new Set<string>();

  constructor(options: CloudHypervisorOptions) {
    this.options = options;
    this.limits = { ...LIMITS, ...options.limits };
  }

  async fingerprint(): Promise<string> {
    return fingerprintOf(this.options.binaries.current.version, this.options.host);
  }

  async restorable(): Promise<string[]> {
    return this.options.binaries.all.map(({ version }) =>
      fingerprintOf(version, this.options.host),
    );
  }

  async refusal(fingerprint: string): Promise<string | undefined> {
    const versions = this.options.binaries.all.map(({ version }) => version);
    return incompatibility(fingerprint, versions, this.options.host);
  }

  async boot(vm: Vm, signal: AbortSignal, beforeRun?: () => Promise<void>): Promise<void> {
    const { run, config } = await this.launch(vm, this.options.binaries.current, signal);
    await killOnError(this, vm, async () => {
      signal.throwIfAborted();
      await this.createVm(vm, run, config);
      await beforeRun?.();
      await durableStep("run vcpus", () => this.reach(vm, run, "boot", "Running"));
    });
  }

  async restore(
    vm: Vm,
    snapshotDir: string,
    saved: SavedMemory,
    signal: AbortSignal,
  ): Promise<Restored> {
    const binary = this.options.binaries.all.find(
      ({ version }) => version === versionIn(saved.fingerprint),
    );
    const reason =
      (await this.refusal(saved.fingerprint)) ?? (await misfit(vm, snapshotDir, saved.files));
    if (reason !== undefined || binary === undefined) {
      await this.end(vm, { graceMs: 0 });
      return { kind: "refused", reason: reason ?? `no binary is known for ${saved.fingerprint}` };
    }
    const { run, config } = await this.launch(vm, binary, signal);
    const wrong = await killOnError(this, vm, () =>
      this.exchange(vm, () =>
        loadFrom(snapshotDir, saved.files, config, this.transferOf(vm, run), signal),
      ),
    );
    if (wrong === undefined) return { kind: "restored" };
    await this.end(vm, { graceMs: 0 });
    return { kind: "refused", reason: wrong };
  }

  async assign(vm: Vm): Promise<void> {
    await this.options.isolation.admit(vm);
    await assignRun(vm);
  }

  async inspect(vm: Vm): Promise<VmmStatus> {
    const run = await findLiveRun(vm);
    if (run === undefined) return { kind: "none" };
    const facts = { pid: run.pid, residentBytes: residentBytes(run.pid) };
    if (this.exchanging.has(vm.dir)) return { kind: "paused", ...facts };
    // A VMM can spoil this file. Its guest then counts as still there.
    if (hasLostGuest(await eventsOf(vm, run).catch(() => []))) return { kind: "none" };
    const limitMs = (await isTransferring(vm)) ? this.transferLimitMs(vm) : this.limits.status;
    const seen = await apiOf(vm, run).info(limitMs);
    if (seen.kind === "ok" && seen.value.state === "Running") return { kind: "running", ...facts };
    if (seen.kind === "ok" && seen.value.state === "Paused") return { kind: "paused", ...facts };
    if (!isAlive(run)) return { kind: "none" };
    return {
      kind: "unknown",
      ...facts,
      reason: seen.kind === "ok" ? `its VM is ${seen.value.state}` : explain(seen),
    };
  }

  async isAlive(vm: Vm): Promise<boolean> {
    return (await findLiveRun(vm)) !== undefined;
  }

  async pauseVcpus(vm: Vm): Promise<void> {
    const run = await liveRun(vm);
    await durableStep("pause vcpus", () => this.reach(vm, run, "pause", "Paused"));
  }

  async resumeVcpus(vm: Vm): Promise<void> {
    const run = await liveRun(vm);
    await durableStep("run vcpus", () => this.reach(vm, run, "resume", "Running"));
  }

  async saveMemory(vm: Vm, dir: string, signal: AbortSignal): Promise<SavedMemory> {
    const run = await liveRun(vm);
    const save = () => this.exchange(vm, () => saveTo(dir, this.transferOf(vm, run), signal));
    return { files: await durableStep("save memory", save), fingerprint: run.fingerprint };
  }

  async end(vm: Vm, options: { graceMs: number; signal?: AbortSignal }): Promise<void> {
    await endVmm(vm, options);
    await dropTransfer(vm);
    await this.options.isolation.release(vm);
  }

  async guestAddress(vm: Vm): Promise<GuestAddress | undefined> {
    return await findGuestAddress(vm);
  }

  async trimLogs(vm: Vm): Promise<void> {
    const run = await findLiveRun(vm);
    if (run === undefined) return;
    await trimLogs(
      [
        SERIAL_LOG,
        ...["vmm.log", "stderr.log", "events.json"].map((name) => join(run.runDir, name)),
      ].map((name) => join(vm.dir, name)),
    );
  }

  async causeOfEnd(vm: Vm): Promise<CauseOfEnd> {
    return await causeByRun(vm, async (run, exit) => {
      const tail = (name: string) => readTail(join(vm.dir, name), LOG_TAIL_BYTES);
      return causeOf({
        exit,
        events: await eventsOf(vm, run),
        log: await tail(join(run.runDir, "vmm.log")),
        stderr: await tail(join(run.runDir, "stderr.log")),
        serial: await tail(SERIAL_LOG),
      });
    });
  }

  /** Starts a VMM that replies and has no VM yet. */
  private async launch(
    vm: Vm,
    binary: Binary,
    signal: AbortSignal,
  ): Promise<{ run: VmmRun; config: VmConfig }> {
    await endVmm(vm, { graceMs: 0 });
    const enclosure = await this.options.isolation.enclose(vm, { devices: this.devices() });
    return await killOnError(this, vm, async () => {
      await freshDirectories(vm, enclosure.uid);
      const run = await this.spawn(vm, binary, enclosure, signal);
      await this.waitForPing(vm, run);
      return {
        run,
        config: vmConfig(vm, { network: enclosure.network, landlock: this.options.landlock }),
      };
    });
  }

  private devices(): string[] {
    const devices =
      this.options.isolation.networkKind === "namespace"
        ? ["/dev/kvm", "/dev/net/tun"]
        : ["/dev/kvm"];
    return devices.filter((device) => existsSync(device));
  }

  private async spawn(
    vm: Vm,
    binary: Binary,
    enclosure: Enclosure,
    signal: AbortSignal,
  ): Promise<VmmRun> {
    const runDir = await nextRunDir(vm, enclosure.uid);
    const args = [
      ["--seccomp", "true"],
      ["--api-socket", `path=${runDir}/api.sock`],
      ["--event-monitor", `path=${runDir}/events.json`],
      ["--log-file", `${runDir}/vmm.log`, "-v"],
    ].flat();
    const fingerprint = fingerprintOf(binary.version, this.options.host);
    return await startVmm(
      vm,
      { command: binary.path, args, enclosure },
      { runDir, guest: GUEST, fingerprint },
      signal,
    );
  }

  private async waitForPing(vm: Vm, run: VmmRun): Promise<void> {
    const deadline = performance.now() + this.limits.start;
    for (;;) {
      const answer = await apiOf(vm, run).ping(PING_LIMIT_MS);
      if (answer.kind === "ok") {
        if (answer.value.pid === run.pid) return;
        throw new Error(
          `another process (${answer.value.pid}) answers on the API socket of process ${run.pid}`,
        );
      }
      if (!isAlive(run))
        throw new Error(
          `Cloud Hypervisor ended while starting: ${await stderrTail(vm, run.runDir)}`,
        );
      if (performance.now() > deadline)
        throw new Error(
          `Cloud Hypervisor did not answer within ${this.limits.start} ms: ${explain(answer)}`,
        );
      await sleep(PING_EVERY_MS);
    }
  }

  private async createVm(vm: Vm, run: VmmRun, config: VmConfig): Promise<void> {
    const api = apiOf(vm, run);
    const outcome = await api.create(config, this.limits.verb);
    // A VMM that refused a VM keeps the configuration, also Landlock that it could not apply:
    // `vm.info` proves nothing here.
    if (outcome.kind === "refused")
      throw new Error(`Cloud Hypervisor refuses the VM: ${explain(outcome)}`);
    const seen = await api.info(this.limits.verb);
    if (seen.kind !== "ok")
      throw new Error(
        `Cloud Hypervisor did not take the VM: ${explain(outcome.kind === "ok" ? seen : outcome)}`,
      );
    const different = differences(config, seen.value.config);
    if (different.length > 0)
      throw new Error(
        `Cloud Hypervisor took the VM's configuration otherwise than asked: ${different.join("; ")}`,
      );
  }

  /** CH1 */
  private async reach(
    vm: Vm,
    run: VmmRun,
    verb: "boot" | "pause" | "resume",
    state: VmInfo["state"],
  ): Promise<void> {
    const api = apiOf(vm, run);
    const before = await api.info(this.limits.verb);
    if (before.kind === "ok" && before.value.state === state) return;
    const outcome = await api[verb](this.limits.verb);
    const after = await api.info(this.limits.verb);
    if (after.kind === "ok" && after.value.state === state) return;
    const said = outcome.kind === "ok" ? "it said that it did" : explain(outcome);
    const found = after.kind === "ok" ? `the VM is ${after.value.state}` : explain(after);
    throw new Error(`Cloud Hypervisor did not ${verb} the VM: ${said}; ${found}`);
  }

  private async exchange<T>(vm: Vm, body: () => Promise<T>): Promise<T> {
    this.exchanging.add(vm.dir);
    try {
      return await body();
    } finally {
      this.exchanging.delete(vm.dir);
    }
  }

  private transferLimitMs(vm: Vm): number {
    return this.limits.transfer + Math.ceil((vm.memoryMib / 100) * this.limits.transferPer100Mib);
  }

  private transferOf(vm: Vm, run: VmmRun) {
    return {
      api: apiOf(vm, run),
      vm,
      uid: this.options.isolation.uid,
      limitMs: this.transferLimitMs(vm),
    };
  }
}

async function eventsOf(vm: Vm, { runDir }: VmmRun): Promise<VmmEvent[]> {
  return parseEvents(await readTail(join(vm.dir, runDir, "events.json"), LOG_TAIL_BYTES));
}

function apiOf(vm: Vm, run: VmmRun): CloudHypervisorApi {
  return cloudHypervisorApi(socketPathOf(vm, run, join(run.runDir, "api.sock")));
}
