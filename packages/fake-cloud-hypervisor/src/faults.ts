/**
 * Faults that a test requests: in the environment for the whole life of the process, or in a file
 * in its working directory, which is read at every use, so that a test can change them meanwhile.
 * Both hold a JSON array of Fault.
 */
import { readFileSync, statSync } from "node:fs";
import { rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

export const FAULTS_VARIABLE = "FAKE_CLOUD_HYPERVISOR_FAULTS";
const FAULTS_FILE = "fake-cloud-hypervisor.json";

/**
 * `call` is a name as in the path of the API, such as "vm.snapshot". `times` is how often the fault
 * happens, per process and version of the file; default: always.
 */
export type Fault = { times?: number } &
  /**
   * The call gets no response, nor does any later call. The call hangs `before` it acts, or
   * `after`.
   */
  (
    | { kind: "hang"; call: string; when: "before" | "after" }
    /**
     * SIGKILL of itself. `during`: a snapshot has its three files, but none of its memory.
     * `answered`: the caller has the response.
     */
    | { kind: "die"; call: string; when: "before" | "during" | "answered" }
    /** The connection is closed without a response; the call has acted. */
    | { kind: "lose-response"; call: string }
    /** The response to an 11th connection. */
    | { kind: "busy" }
    /** The file system is full in the middle of writing the memory. */
    | { kind: "no-space" }
    /** Only half of config.json is written, and the call reports success. */
    | { kind: "short-config" }
    /** Duration of the call; a snapshot sleeps between its state and its memory. */
    | { kind: "slow"; call: string; ms: number }
    /**
     * The guest's vsock driver starts this long after the boot; earlier connections never get a
     * response.
     */
    | { kind: "slow-boot"; ms: number }
  );

type FaultOf<K extends Fault["kind"]> = Extract<Fault, { kind: K }>;

/** Sets the faults of the process that runs, or will run, in `directory`. */
export async function setFaults(directory: string, faults: Fault[]): Promise<void> {
  const path = join(directory, FAULTS_FILE);
  if (faults.length === 0) return await rm(path, { force: true });
  await writeFile(`${path}.tmp`, JSON.stringify(faults));
  await rename(`${path}.tmp`, path);
}

export class Faults {
  private readonly used = new Map<string, number>();

  /** The requested fault of this kind, if there is one; the fault counts as used. */
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
