/**
 * The lifecycle of real virtual machines through the whole fleet, compared with the VMM by itself.
 * Each round takes one sandbox through all operations, and the VMM through the sandbox's memory, so
 * that other load on the machine affects both alike.
 */
import { join } from "node:path";
import postgres from "postgres";
import { benchDir, type BenchPlace, startBenchFleet } from "./fleet.ts";
import { measureCrowd } from "./lifecycle/crowd.ts";
import {
  change,
  createSandbox,
  type TimedRequest,
  firstCommand,
  nowMs,
  readTimes,
  sampleOf,
} from "./lifecycle/operations.ts";
import { measureRaw } from "./lifecycle/raw-vmm.ts";
import {
  type LifecycleResult,
  type StageSample,
  type StepName,
  STEPS,
  stepsOf,
  targetsOf,
} from "./lifecycle/result.ts";
import { createClient } from "./load/client.ts";
import { remove } from "./load/sandboxes.ts";
import { resultOf } from "./machine.ts";
import { statOf } from "./measure/cpu.ts";
import { OWN_NAME } from "./measure/statements.ts";
import { wait } from "./step.ts";

export interface LifecycleOptions extends BenchPlace {
  imagesDir: string;
  template: string;
  rounds: number;
  /** Concurrent creates after the rounds; 0: none. */
  crowd: number;
  startsAtOnce: number;
  /** VMs that the host keeps warm; each create first waits for one. 0: none. */
  warmPool: number;
  signal: AbortSignal;
  say: (line: string) => void;
}

const HOST = "host-1";
const SANDBOX_MIB = 512;
const DISK_MIB = 2_048;
const WARM_LIMIT_MS = 120_000;
const WARM_LOOK_S = 0.2;

type Samples = Record<StepName, StageSample[]>;

export async function measureLifecycle(options: LifecycleOptions): Promise<LifecycleResult> {
  const { root, dir, imagesDir, rounds, crowd, startsAtOnce, warmPool, signal, say } = options;
  const room = Math.max(2, crowd) + warmPool;
  const hostEnv = {
    CAPACITY_VCPU: String(room),
    CAPACITY_MEMORY_MIB: String(room * SANDBOX_MIB),
    CAPACITY_DISK_MIB: String(room * DISK_MIB),
    STARTS_AT_ONCE: String(startsAtOnce),
    WARM_POOL_MAX: String(warmPool),
    SNAPSHOT_STORE: "none",
  };
  say("starting a fleet with one host");
  const started = await startBenchFleet(
    { root, dir },
    { imagesDir, hostEnv, isDurable: true },
    signal,
  );
  const { fleet } = started;
  const client = createClient(fleet.state);
  const connection = { application_name: OWN_NAME };
  const sql = postgres(fleet.state.databaseUrl, { max: 1, onnotice: () => {}, connection });
  const samples = Object.fromEntries(STEPS.map((name) => [name, [] as StageSample[]])) as Samples;
  try {
    const round = new Round({ ...options, sql, call: client.call, fleet });
    // The first round is a warm-up: of programs, page cache, and what the host prepares.
    for (let done = 0; done <= rounds; done += 1) {
      signal.throwIfAborted();
      say(done === 0 ? "warming up" : `[${done}/${rounds}] create, pause, resume, stop, start`);
      // Before the first create, the host has no warm VM.
      if (warmPool > 0 && done > 0) await round.untilWarm();
      const measured = await round.run();
      if (done > 0) for (const name of STEPS) samples[name].push(measured[name]);
    }
    if (crowd > 0) say(`${crowd} creates at once`);
    const together =
      crowd === 0 ? undefined : await measureCrowd(client.call, options.template, crowd);
    const settings = { rounds, crowd, startsAtOnce, warmPool };
    const { steps: _none, ...about } = await resultOf(root, "lifecycle", settings, []);
    const steps = stepsOf(samples);
    const targets = targetsOf(steps);
    return { ...about, steps, targets, ...(together === undefined ? {} : { crowd: together }) };
  } finally {
    client.close();
    await sql.end({ timeout: 1 });
    await started.close();
  }
}

type Parts = Pick<LifecycleOptions, "root" | "dir" | "template" | "signal"> & {
  sql: postgres.Sql;
  call: ReturnType<typeof createClient>["call"];
  fleet: Awaited<ReturnType<typeof startBenchFleet>>["fleet"];
};

class Round {
  private readonly parts: Parts;

  constructor(parts: Parts) {
    this.parts = parts;
  }

  async run(): Promise<Record<StepName, StageSample>> {
    const { call, root, dir, template, signal } = this.parts;
    const cpuMs = this.agentCpuMs();
    const created = await createSandbox(call, template);
    const { id } = created;
    await firstCommand(created, signal);
    const commandedAt = nowMs();
    const { stages, agentCpuMs } = await this.sample(id, created, cpuMs);
    const create: StageSample = {
      ms: commandedAt - created.sentAt,
      stages: { ...stages, "first command": commandedAt - created.answeredAt },
      agentCpuMs,
    };
    const pause = await this.transition(id, "pause");
    const vmDir = join(dir, "hosts", HOST, "vm", id);
    const raw = await measureRaw(vmDir, benchDir(root, "lifecycle-raw"), signal);
    const resume = await this.transition(id, "resume");
    const stop = await this.transition(id, "stop");
    const start = await this.transition(id, "start");
    await remove(call, id);
    return { create, pause, "raw load": raw.load, "raw save": raw.save, resume, stop, start };
  }

  async untilWarm(): Promise<void> {
    const { healthUrl = "" } = this.agent() ?? {};
    const deadlineMs = performance.now() + WARM_LIMIT_MS;
    while (performance.now() < deadlineMs) {
      const health = (await (await fetch(healthUrl)).json()) as { warmVms?: number };
      if ((health.warmVms ?? 0) > 0) return;
      await wait(WARM_LOOK_S, this.parts.signal);
    }
    throw new Error(`the host has kept no VM warm within ${WARM_LIMIT_MS / 1_000} s`);
  }

  private async transition(id: string, verb: string): Promise<StageSample> {
    const before = this.agentCpuMs();
    return await this.sample(id, await change(this.parts.call, id, verb), before);
  }

  private async sample(id: string, exchange: TimedRequest, cpuBeforeMs: number) {
    const agentCpuMs = this.agentCpuMs() - cpuBeforeMs;
    return { ...sampleOf(exchange, await readTimes(this.parts.sql, id)), agentCpuMs };
  }

  private agentCpuMs(): number {
    return statOf(this.agent()?.process?.pid ?? 0)?.ownMs ?? Number.NaN;
  }

  private agent() {
    return this.parts.fleet.state.components.find(({ role }) => role === "node-agent");
  }
}
