/**
 * What a fleet is made of and where it runs: state.json in its directory, so that any later command
 * finds it again.
 */
import { renameSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { ProcessIdentity } from "@torpor/service";

/**
 * `lab`: a machine of its own with a node-agent on it (packages/lab); the process is the one that
 * emulates it.
 */
export type Role = "postgres" | "nats" | "scheduler" | "node-agent" | "fence" | "lab" | "gateway";

export interface Component {
  /** Unique in the fleet: `host-1`, `scheduler-2`. */
  name: string;
  role: Role;
  /** Where it is reached: `127.0.0.1:8787`; a dash for one that speaks to nobody. */
  address: string;
  /**
   * Answers 200 when it is well; for Postgres its connection string; absent: a TCP connection has
   * to do.
   */
  healthUrl?: string;
  /** Of one that speaks to nobody: it writes this file again and again while it is well. */
  healthFile?: string;
  command: string;
  args: string[];
  env: Record<string, string>;
  log: string;
  /** Absent: not started yet, or ended by us. */
  process?: ProcessIdentity;
}

export interface FleetState {
  version: 1;
  url: string;
  apiKey: string;
  databaseUrl: string;
  natsUrl: string;
  edgePort: number;
  driver: string;
  /**
   * Where the images are that its templates begin with; absent: of a fleet that an earlier version
   * started.
   */
  imagesDir?: string;
  components: Component[];
}

const fileIn = (dir: string) => join(dir, "state.json");

export async function readState(dir: string): Promise<FleetState | undefined> {
  const text = await readFile(fileIn(dir), "utf8").catch(() => undefined);
  return text === undefined ? undefined : (JSON.parse(text) as FleetState);
}

/**
 * Readable for us alone: it holds passwords. In one piece, so that parts that start at the same
 * time do not mix.
 */
export function writeState(dir: string, state: FleetState): void {
  const temporary = `${fileIn(dir)}.tmp`;
  writeFileSync(temporary, JSON.stringify(state, undefined, 2), { mode: 0o600 });
  renameSync(temporary, fileIn(dir));
}
