/** Detects growth in a fleet under a long steady load: of memory, files, rows, messages. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import postgres from "postgres";
import { startSimulated } from "./data-plane/fleet.ts";
import type { BenchPlace } from "./fleet.ts";
import { createClient } from "./load/client.ts";
import { Tally } from "./load/tally.ts";
import { OWN_NAME } from "./measure/statements.ts";
import { soakLoad } from "./soak/load.ts";
import { type SeriesFit, Soaked } from "./soak/series.ts";
import { readAll } from "./soak/samples.ts";
import { wait } from "./step.ts";

export interface SoakOptions extends BenchPlace {
  minutes: number;
  /** Interval between two samples. */
  sampleSeconds: number;
  signal: AbortSignal;
  say: (line: string) => void;
}

export interface SoakResult {
  minutes: number;
  /** Requests by kind, and failures by reason. */
  requests: Record<string, number>;
  failed: Record<string, number>;
  series: SeriesFit[];
}

const HEAP_REPORTER = fileURLToPath(new URL("soak/heap-reporter.ts", import.meta.url));
const HOSTS = 2;
const SAY_EVERY = 6;

export async function measureSoak(options: SoakOptions): Promise<SoakResult> {
  const { minutes, sampleSeconds, signal, say } = options;
  const heapDir = join(options.dir, "heap");
  const env = { NODE_OPTIONS: `--import=${HEAP_REPORTER}`, TORPOR_HEAP_DIR: heapDir };
  say(`starting a fleet with ${HOSTS} simulated hosts`);
  const { fleet, edgePort, close } = await startSimulated(options, { hosts: HOSTS, env }, signal);
  await mkdir(heapDir, { recursive: true });
  const client = createClient(fleet.state);
  const connection = { application_name: OWN_NAME };
  const sql = postgres(fleet.state.databaseUrl, { max: 1, onnotice: () => {}, connection });
  const stop = new AbortController();
  const tally = new Tally();
  tally.open();
  const running = soakLoad(client.call, edgePort, tally, stop.signal);
  // A rejection is reported where `running` is awaited.
  running.catch(() => {});
  try {
    const soaked = new Soaked();
    const [startedAt, count] = [performance.now(), (minutes * 60) / sampleSeconds];
    for (let sample = 1; sample <= count; sample += 1) {
      const dueInS = (startedAt - performance.now()) / 1_000 + sample * sampleSeconds;
      await wait(Math.max(0, dueInS), signal);
      const atS = (performance.now() - startedAt) / 1_000;
      soaked.add(atS, await readAll(fleet, sql, heapDir));
      if (sample % SAY_EVERY === 0)
        say(`${(atS / 60).toFixed(0)} of ${minutes} minutes, ${tally.done} requests`);
    }
    const kinds = Object.entries(tally.latencies()).filter(([kind]) => kind !== "all");
    const requests = Object.fromEntries(kinds.map(([kind, latency]) => [kind, latency.count]));
    return { minutes, requests, failed: tally.failedBy(), series: soaked.fits() };
  } finally {
    stop.abort();
    await running;
    client.close();
    await sql.end({ timeout: 1 });
    await close();
  }
}
