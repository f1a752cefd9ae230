/** Transitions, creates and reads of a whole control plane, with hosts that reply at once. */
import postgres from "postgres";
import { type ControlPlaneShape, startControlPlane } from "./control-plane-fleet.ts";
import { measureAccepts } from "./load/accepts.ts";
import { type BenchCall, createClient } from "./load/client.ts";
import { closedLoop, createDeleteLoop, pacedLoop, readLoop } from "./load/loops.ts";
import { createMany, removeMany } from "./load/sandboxes.ts";
import { resultOf } from "./machine.ts";
import { OWN_NAME } from "./measure/statements.ts";
import type { Meters } from "./measure/window.ts";
import type { BenchPlace } from "./fleet.ts";
import { checkOpenFiles } from "./open-files.ts";
import type { BenchResult, StepResult } from "./report/result.ts";
import { measureStep, NOTHING, type StepPlan, type Timing } from "./step.ts";

export const CONTROL_PLANE_STEPS = [
  "idle",
  "closed",
  "paced",
  "async",
  "create-delete",
  "get",
  "list",
  "list-status",
] as const;
export type ControlPlaneStep = (typeof CONTROL_PLANE_STEPS)[number];

export interface ControlPlaneOptions extends Timing, BenchPlace {
  shape: ControlPlaneShape;
  steps: readonly ControlPlaneStep[];
  /** Numbers of clients of the closed loop. */
  clients: readonly number[];
  /** Sandboxes whose pause and resume are accepted without waiting. */
  accepts: number;
  /** Length of the warm-up under all kinds of load: the first seconds of a program are slow. */
  warmUpSeconds: number;
  signal: AbortSignal;
  say: (line: string) => void;
}

/** Clients of reads, creates and accepts. */
const CLIENTS = 32;
const LIST_CLIENTS = 16;
const SANDBOXES_TO_READ = 20;
const WARM_UP_CLIENTS = 32;
const PACED_SANDBOXES = 128;

export async function measureControlPlane(options: ControlPlaneOptions): Promise<BenchResult> {
  const { root, shape, signal, say } = options;
  checkSteps(options.steps);
  // One connection per client, and on the loopback edge one listener per sandbox.
  const most = Math.max(PACED_SANDBOXES, options.accepts, ...options.clients);
  checkOpenFiles(2 * (shape.hosts + most));
  say(`starting a fleet with ${shape.hosts} bench hosts`);
  await using started = await openControlPlane(options, shape, signal);
  await started.startHosts(0, signal);
  const steps = await new Steps(started, options).measure();
  const { hosts, gateways, schedulers, edge, isDurable } = shape;
  const { seconds, warmUpSeconds } = options;
  const settings = { hosts, gateways, schedulers, edge, isDurable, seconds, warmUpSeconds };
  return await resultOf(root, "control-plane", settings, steps);
}

/** Throws a line if the steps cannot be combined. */
export function checkSteps(steps: readonly ControlPlaneStep[]): void {
  if (steps.includes("paced") && !steps.includes("closed"))
    throw new Error("the step paced goes by the closed loop: add closed to --steps");
}

export interface OpenControlPlane extends Meters, AsyncDisposable {
  call: BenchCall;
  startHosts: (filled: number, signal: AbortSignal) => Promise<void>;
  stopHosts: () => Promise<void>;
}

export async function openControlPlane(
  place: BenchPlace,
  shape: ControlPlaneShape,
  signal: AbortSignal,
): Promise<OpenControlPlane> {
  const { fleet, startHosts, stopHosts, close } = await startControlPlane(place, shape, signal);
  const client = createClient(fleet.state);
  const connection = { application_name: OWN_NAME };
  const sql = postgres(fleet.state.databaseUrl, { max: 2, onnotice: () => {}, connection });
  return {
    fleet,
    sql,
    call: client.call,
    startHosts,
    stopHosts,
    [Symbol.asyncDispose]: async () => {
      client.close();
      await sql.end({ timeout: 1 });
      await close();
    },
  };
}

type StepsOptions = Omit<ControlPlaneOptions, keyof BenchPlace | "shape">;

export class Steps {
  private readonly plane: OpenControlPlane;
  private readonly options: StepsOptions;
  private readonly results: StepResult[] = [];

  constructor(plane: OpenControlPlane, options: StepsOptions) {
    this.plane = plane;
    this.options = options;
  }

  async measure(): Promise<StepResult[]> {
    const { steps, warmUpSeconds, say } = this.options;
    if (warmUpSeconds > 0) {
      say(`warming up, ${warmUpSeconds} s`);
      await this.warmUp(warmUpSeconds);
    }
    const wanted = CONTROL_PLANE_STEPS.filter((step) => steps.includes(step)).flatMap((step) =>
      this.parts(step),
    );
    for (const [at, { name, run }] of wanted.entries()) {
      const left = (wanted.length - at) * this.secondsOfStep();
      say(`[${at + 1}/${wanted.length}] ${name}; about ${left} s left`);
      this.results.push(await run());
    }
    return this.results;
  }

  private async warmUp(seconds: number): Promise<void> {
    const load = await closedLoop(this.plane.call, WARM_UP_CLIENTS);
    const plan = { name: "warm-up", unit: "transition", clients: WARM_UP_CLIENTS };
    const timing = { seconds, warmSeconds: 0, countSeconds: 0 };
    await measureStep(this.plane, { ...plan, prepare: () => load }, timing, this.options.signal);
  }

  private secondsOfStep(): number {
    const { warmSeconds, seconds, countSeconds } = this.options;
    return warmSeconds + seconds + countSeconds + 2;
  }

  private parts(step: ControlPlaneStep): { name: string; run: () => Promise<StepResult> }[] {
    if (step === "async") return [{ name: `async-${CLIENTS}`, run: () => this.accepts() }];
    if (step === "paced") return [{ name: "paced", run: () => this.paced() }];
    return this.plans(step).map((plan) => ({ name: plan.name, run: () => this.plain(plan) }));
  }

  private plans(step: Exclude<ControlPlaneStep, "async" | "paced">): StepPlan[] {
    const { call } = this.plane;
    switch (step) {
      case "idle":
        return [{ name: "idle", unit: "second", clients: 0, prepare: () => NOTHING }];
      case "closed":
        return this.options.clients.map((clients) => ({
          name: `closed-${clients}`,
          unit: "transition",
          clients,
          requestsBefore: 2 * clients,
          prepare: () => closedLoop(call, clients),
        }));
      case "create-delete":
        return [1, CLIENTS].map((clients) => ({
          name: `create-delete-${clients}`,
          unit: "pair",
          clients,
          requestsPerUnit: 2,
          prepare: () => createDeleteLoop(call, clients),
        }));
      case "get":
        return [1, CLIENTS].map((clients) => this.read(step, clients, (id) => `/${id}`));
      case "list":
        return [1, LIST_CLIENTS].map((clients) => this.read(step, clients, () => "?limit=100"));
      case "list-status":
        return [1, LIST_CLIENTS].map((clients) =>
          this.read(step, clients, () => "?limit=100&status=running"),
        );
    }
  }

  private read(kind: string, clients: number, pathOf: (id: string) => string): StepPlan {
    const { call } = this.plane;
    const prepare = async () => {
      const ids = await createMany(call, SANDBOXES_TO_READ);
      const paths = ids.map((id) => `/v1/sandboxes${pathOf(id)}`);
      const load = readLoop(call, kind, clients, paths);
      return { ...load, close: () => removeMany(call, ids) };
    };
    return { name: `${kind}-${clients}`, unit: "request", clients, prepare };
  }

  private async plain(plan: StepPlan): Promise<StepResult> {
    return await measureStep(this.plane, plan, this.options, this.options.signal);
  }

  /** Runs at half of the highest rate of the closed loop. */
  private async paced(): Promise<StepResult> {
    const closed = this.results.filter(({ name }) => name.startsWith("closed-"));
    const half = Math.max(...closed.map(({ perSecond }) => perSecond)) / 2;
    const prepare = () => pacedLoop(this.plane.call, PACED_SANDBOXES, half);
    const plan = { name: "paced", unit: "transition", clients: PACED_SANDBOXES, prepare };
    return { ...(await this.plain(plan)), extra: { askedPerSecond: half } };
  }

  private async accepts(): Promise<StepResult> {
    const sizes = { clients: CLIENTS, sandboxes: this.options.accepts };
    return await measureAccepts(this.plane, this.plane.call, sizes, this.options.signal);
  }
}
