/**
 * Faults that a test asks for: in the environment for the whole life of the process, or in a file
 * in its working directory, read again at every use, so that a test can switch them while it runs.
 * Both hold a JSON array of Fault.
 */
import { readFileSync, statSync } from "node:fs";
import { rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

export const FAULTS_VARIABLE = "FAKE_CLOUD_HYPERVISOR_FAULTS";
const FAULTS_FILE = "fake-cloud-hypervisor.json";

/**
 * `call` is a name as in the path of the API: "vm.snapshot". `times`: as often per process and
 * version of the file, then no more; without it always.
 */
export type Fault = { times?: number } &
  /** The call and all calls after it get no answer. `before` it acts, or `after`. */
  (
    | { kind: "hang"; call: string; when: "before" | "after" }
    /**
     * SIGKILL of itself. `during`: a snapshot has its three files, none of its memory. `answered`:
     * the caller has the answer.
     */
    | { kind: "die"; call: string; when: "before" | "during" | "answered" }
    /** The connection is closed without an answer; the call has acted. */
    | { kind: "lose-response"; call: string }
    /** As on an 11th connection. */
    | { kind: "busy" }
    /** The file system is full in the middle of the memory. */
    | { kind: "no-space" }
    /** Half of config.json is written, and nobody notices. */
    | { kind: "short-config" }
    /** Time that the call takes; a snapshot takes it between its state and its memory. */
    | { kind: "slow"; call: string; ms: number }
    /**
     * The guest's vsock driver comes up this long after boot; connections before that never get an
     * answer.
     */
    | { kind: "slow-boot"; ms: number }
  );

type FaultOf<K extends Fault["kind"]> = Extract<Fault, { kind: K }>;

/** Sets the faults of the process that works, or will work, in `directory`. */
export async function setFaults(directory: string, faults: Fault[]): Promise<void> {
  const path = join(directory, FAULTS_FILE);
  if (faults.length === 0) return await rm(path, { force: true });
  await writeFile(`${path}.tmp`, JSON.stringify(faults));
  await rename(`${path}.tmp`, path);
}

export class Faults {
  private readonly used = new Map<string, number>();

  /** The fault of that kind that is asked for now, if there is one; it counts as used. */
  take<K extends Fault["kind"]>(
    kind: K,
    isMeant: (fault: FaultOf<K>) => boolean = () => true,
  ): FaultOf<K> | undefined {
    for (const { fault, key } of asked()) {
      if (fault.kind !== kind || !isMeant(fault as FaultOf<K>)) continue;
      const used = this.used.get(key) ?? 0;
      if (used >= (fault.times ?? Infinity)) continue;
      this.used.set(key, used + 1);
      return fault as FaultOf<K>;
    }
    return undefined;
  }
}

function asked(): { fault: Fault; key: string }[] {
  const inEnvironment = JSON.parse(process.env[FAULTS_VARIABLE] ?? "[]") as Fault[];
  const { version, faults } = inFile();
  return [
    ...inEnvironment.map((fault, index) => ({ fault, key: `environment ${index}` })),
    ...faults.map((fault, index) => ({ fault, key: `${version} ${index}` })),
  ];
}

function inFile(): { version: string; faults: Fault[] } {
  try {
    const version =
      String(statSync(FAULTS_FILE, { bigint: true }).ino) +
      String(statSync(FAULTS_FILE, { bigint: true }).mtimeNs);
    return { version, faults: JSON.parse(readFileSync(FAULTS_FILE, "utf8")) as Fault[] };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return { version: "", faults: [] };
    throw error;
  }
}
