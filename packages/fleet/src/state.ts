/**
 * The components of a fleet and their processes: state.json in its directory, which later commands
 * read.
 */
import { renameSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { ProcessIdentity } from "@torpor/service";

/** `lab`: a separate machine with a node-agent (packages/lab); the process is its emulator. */
export type Role = "postgres" | "nats" | "scheduler" | "node-agent" | "fence" | "lab" | "gateway";

export interface Component {
  /** Unique in the fleet: `host-1`, `scheduler-2`. */
  name: string;
  role: Role;
  /** Address: `127.0.0.1:8787`; a dash for a component without one. */
  address: string;
  /**
   * Responds with 200 when the component is healthy; for Postgres, its connection string. Without
   * it, a TCP connection is enough.
   */
  healthUrl?: string;
  /** For a component without an address: a file that it rewrites regularly while it is healthy. */
  healthFile?: string;
  command: string;
  args: string[];
  env: Record<string, string>;
  log: string;
  /** Absent: not started yet, or ended by a command. */
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
  /** Directory of the templates' images; absent in a fleet that an earlier version started. */
  imagesDir?: string;
  components: Component[];
}

const fileIn = (dir: string) => join(dir, "state.json");

export async function readState(dir: string): Promise<FleetState | undefined> {
  const text = await readFile(fileIn(dir), "utf8").catch(() => undefined);
  return text === undefined ? undefined : (JSON.parse(text) as FleetState);
}

/**
 * Only the user may read the file: it holds passwords. Written synchronously, so that components
 * which start at the same time do not interleave.
 */
export function writeState(dir: string, state: FleetState): void {
  const temporary = `${fileIn(dir)}.tmp`;
  writeFileSync(temporary, JSON.stringify(state, undefined, 2), { mode: 0o600 });
  renameSync(temporary, fileIn(dir));
}
