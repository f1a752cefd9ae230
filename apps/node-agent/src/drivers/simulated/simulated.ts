/**
 * A driver without virtual machines, for tests of whole fleets. Each VMM is a real process (vmm/)
 * that outlives the agent, holds its guest's memory, keeps the guest's files on the VM's disk and
 * serves the guest agent's API. Only the guest is simulated, not the life of its process.
 */
import { claimPort, isAlive, messageOf, residentBytes } from "@torpor/service";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { open, readFile } from "node:fs/promises";
import { createConnection } from "node:net";
import { once } from "node:events";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { durableStep } from "../../host/durable-step.ts";
import { plainIsolation } from "../../host/isolation.ts";
import type { GuestAddress } from "../../guest-connection.ts";
import { causeByRun } from "../cause.ts";
import type { CauseOfEnd, Driver, Restored, SavedMemory, Vm, VmmStatus } from "../driver.ts";
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
import { simulatedVmm } from "./program.ts";

const FINGERPRINT = "simulated/1";
const MEMORY_FILE = "memory";
const START_LIMIT_MS = 20_000;
const START_LOOK_MS = 10;
const CALL_LIMIT_MS = 5_000;

export class SimulatedDriver implements Driver {
  readonly name = "simulated";
  private readonly isolation = plainIsolation(undefined);

  async fingerprint(): Promise<string> {
    return FINGERPRINT;
  }

  async restorable(): Promise<string[]> {
    return [FINGERPRINT];
  }

  async refusal(fingerprint: string): Promise<string | undefined> {
    return fingerprint === FINGERPRINT
      ? undefined
      : `it was taken on ${fingerprint}; this host runs ${FINGERPRINT}`;
  }

  async boot(vm: Vm, signal: AbortSignal, beforeRun?: () => Promise<void>): Promise<void> {
    const record = await this.launch(vm, signal);
    await killOnError(this, vm, async () => await beforeRun?.());
    await durableStep("run vcpus", () => control(vm, record, "run"));
  }

  async restore(
    vm: Vm,
    snapshotDir: string,
    { files }: SavedMemory,
    signal: AbortSignal,
  ): Promise<Restored> {
    const memory = await readFile(join(snapshotDir, MEMORY_FILE));
    if (sha256(memory) !== files[MEMORY_FILE]?.sha256)
      return {
        kind: "refused",
        reason: "the memory image is damaged: its SHA-256 differs from its manifest's",
      };
    const record = await this.launch(vm, signal);
    await control(vm, record, `load ${memory.toString("base64")}`);
    return { kind: "restored" };
  }

  async assign(vm: Vm): Promise<void> {
    await assignRun(vm);
  }

  async inspect(vm: Vm): Promise<VmmStatus> {
    const record = await findLiveRun(vm);
    if (record === undefined) return { kind: "none" };
    const facts = { pid: record.pid, residentBytes: residentBytes(record.pid) };
    try {
      return {
        kind: (await control(vm, record, "status")) === "running" ? "running" : "paused",
        ...facts,
      };
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
    await durableStep("pause vcpus", () => control(vm, record, "pause"));
  }

  async resumeVcpus(vm: Vm): Promise<void> {
    const record = await liveRun(vm);
    await durableStep("run vcpus", () => control(vm, record, "run"));
  }

  async saveMemory(vm: Vm, dir: string, signal: AbortSignal): Promise<SavedMemory> {
    const record = await liveRun(vm);
    const memory = Buffer.from(
      await durableStep("save memory", () => control(vm, record, "save")),
      "base64",
    );
    signal.throwIfAborted();
    const handle = await open(join(dir, MEMORY_FILE), "wx", 0o600);
    try {
      await handle.writeFile(memory);
      await handle.sync();
    } finally {
      await handle.close();
    }
    return {
      files: { [MEMORY_FILE]: { sizeBytes: memory.length, sha256: sha256(memory) } },
      fingerprint: FINGERPRINT,
    };
  }

  async end(vm: Vm, options: { graceMs: number; signal?: AbortSignal }): Promise<void> {
    await endVmm(vm, options);
  }

  async guestAddress(vm: Vm): Promise<GuestAddress | undefined> {
    return await findGuestAddress(vm);
  }

  async causeOfEnd(vm: Vm): Promise<CauseOfEnd> {
    return await causeByRun(vm, async (run, exit) => {
      if (exit === undefined)
        return {
          code: "VMM_ENDED",
          message: "The VMM ended by itself: the guest powered off, or the VMM was killed.",
        };
      if (exit.signal)
        return { code: "VMM_KILLED", message: `The VMM was ended by ${exit.signal}.` };
      if (exit.code)
        return {
          code: "VMM_FAILED",
          message: `The VMM ended with code ${exit.code}: ${await stderrTail(vm, run.runDir)}.`,
        };
      return { code: "GUEST_POWERED_OFF", message: "The guest powered off." };
    });
  }

  async trimLogs(): Promise<void> {}

  private async launch(vm: Vm, signal: AbortSignal): Promise<VmmRun> {
    await endVmm(vm, { graceMs: 0 });
    const runDir = await nextRunDir(vm, undefined);
    using claimed = await claimPort();
    const enclosure = await this.isolation.enclose(vm, { devices: [] });
    const guest = { kind: "tcp", host: "127.0.0.1", port: claimed.port } as const;
    const vmm = { ...(await simulatedVmm(runDir, claimed.port)), enclosure };
    const facts = { runDir, guest, fingerprint: FINGERPRINT };
    const record = await startVmm(vm, vmm, facts, signal);
    await killOnError(this, vm, () => untilStarted(vm, record));
    return record;
  }
}

/** The control socket appears once the VMM accepts connections, so no request is needed. */
async function untilStarted(vm: Vm, record: VmmRun): Promise<void> {
  const deadline = performance.now() + START_LIMIT_MS;
  while (!existsSync(controlSocketOf(vm, record))) {
    if (!isAlive(record) || performance.now() > deadline)
      throw new Error(`the simulated VMM did not start: ${await stderrTail(vm, record.runDir)}`);
    await sleep(START_LOOK_MS);
  }
}

function controlSocketOf(vm: Vm, record: VmmRun): string {
  return socketPathOf(vm, record, join(record.runDir, "control.sock"));
}

/** Sends one line to the VMM and returns its response. Throws if the VMM closes without one. */
async function control(vm: Vm, record: VmmRun, line: string): Promise<string> {
  const socket = createConnection({ path: controlSocketOf(vm, record) });
  const signal = AbortSignal.timeout(CALL_LIMIT_MS);
  try {
    await once(socket, "connect", { signal });
    socket.end(`${line}\n`);
    const chunks: Buffer[] = [];
    socket.on("data", (chunk: Buffer) => chunks.push(chunk));
    await once(socket, "close", { signal });
    const answer = Buffer.concat(chunks).toString("utf8").trim();
    if (answer === "")
      throw new Error(`the simulated VMM did not answer "${line.split(" ", 1)[0]}"`);
    return answer;
  } finally {
    socket.destroy();
  }
}

function sha256(content: Buffer): string {
  return createHash("sha256").update(content).digest("hex");
}
