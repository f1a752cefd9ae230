/**
 * The cost of reaching a sandbox through the edge, its host and a guest, beside a direct
 * connection.
 */
import postgres from "postgres";
import { startDataPlane } from "./data-plane/fleet.ts";
import { downloadLoad, echoLoad, requestLoad, uploadLoad } from "./data-plane/loads.ts";
import type { Way } from "./data-plane/ways.ts";
import type { BenchPlace } from "./fleet.ts";
import type { Load } from "./load/loops.ts";
import { resultOf } from "./machine.ts";
import { GUEST } from "./measure/cpu.ts";
import { OWN_NAME } from "./measure/statements.ts";
import { checkOpenFiles } from "./open-files.ts";
import type { BenchResult, StepResult } from "./report/result.ts";
import { measureStep, type StepPlan, type Timing } from "./step.ts";

export interface DataPlaneBenchOptions extends Timing, BenchPlace {
  /** Numbers of clients that request a few bytes. */
  clients: readonly number[];
  signal: AbortSignal;
  say: (line: string) => void;
}

interface Kind {
  name: string;
  unit: string;
  clients: number;
  load: (way: Way) => Load;
}

const STREAMS: Kind[] = [
  { name: "download", unit: "MiB", clients: 1, load: downloadLoad },
  { name: "upload", unit: "MiB", clients: 1, load: uploadLoad },
  { name: "websocket", unit: "round trip", clients: 1, load: echoLoad },
];

export async function measureDataPlane(options: DataPlaneBenchOptions): Promise<BenchResult> {
  const { root, clients, seconds, signal, say } = options;
  checkOpenFiles(4 * Math.max(...clients));
  say("starting a fleet with one simulated host");
  const plane = await startDataPlane(options, signal);
  const connection = { application_name: OWN_NAME };
  const sql = postgres(plane.fleet.state.databaseUrl, { max: 2, onnotice: () => {}, connection });
  try {
    const meters = { fleet: plane.fleet, sql, others: { [GUEST]: plane.guestPids } };
    const requests = clients.map((count): Kind => {
      const load = (way: Way) => requestLoad(way, count);
      return { name: `requests-${count}`, unit: "request", clients: count, load };
    });
    const kinds = [...requests, ...STREAMS];
    const steps: StepResult[] = [];
    for (const [at, kind] of kinds.entries()) {
      say(`[${at + 1}/${kinds.length}] ${kind.name}, ${seconds} s directly and through the edge`);
      for (const way of ["direct", "edge"] as const) {
        const plan = planOf(kind, way, plane.ways[way]);
        steps.push(await measureStep(meters, plan, options, signal));
      }
    }
    return await resultOf(root, "data-plane", { hosts: 1, gateways: 1, seconds }, steps);
  } finally {
    await sql.end({ timeout: 1 });
    await plane.close();
  }
}

function planOf({ name, unit, clients, load }: Kind, prefix: string, way: Way): StepPlan {
  return { name: `${prefix}-${name}`, unit, clients, prepare: () => load(way) };
}
