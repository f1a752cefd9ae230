/**
 * What tests make whose name is not a path below their run's directory. It is written down there
 * before it is made, so that the next run finds it when this one is killed (sweep.ts). Nothing is
 * taken off the list: what is gone is gone, and no name is given twice.
 */
import { appendFileSync, globSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Names the run's directory to everything that a run starts. */
export const RUN_VARIABLE = "TORPOR_TEST_RUN";

/**
 * `namespace`: of `ip netns`. `link`: a network device of this machine. `cgroup`: the path of one
 * that holds those of VMs. `directory`: one that cannot lie below TMPDIR. `host`: DATA_DIR of VMs
 * that have namespaces of their own. `fleet`: the directory of a fleet.
 */
type Kind = "namespace" | "link" | "cgroup" | "directory" | "host" | "fleet";

interface Leftover {
  kind: Kind;
  name: string;
}

/** Names by kind, each once. */
export type Leftovers = Record<Kind, string[]>;

/** Root, who may remove anything, removes by this list: only what has a name that tests give. */
const NAMES: Record<Kind, RegExp> = {
  namespace: /^(tt|torpor-)[0-9a-z-]+$/,
  link: /^tt[0-9a-f]+b$/,
  cgroup: /^\/.+\/torpor-[0-9a-f]{6}$/,
  directory: /^(\/tmp|\/dev\/shm)\/torpor-test-[0-9a-f]+$/,
  host: /^\//,
  fleet: /^\//,
};

const FILE = "leftovers.jsonl";
const fileIn = (dir: string) => join(dir, FILE);
const hasTestName = ({ kind, name }: Leftover) => NAMES[kind]?.test(name) === true;

/** To be called before it is made. Outside of `./torpor test` nobody sweeps: nothing is written. */
export function recordLeftover(leftover: Leftover): void {
  const { kind, name } = leftover;
  if (!hasTestName(leftover)) throw new Error(`a ${kind} of tests is not called ${name}`);
  const dir = process.env[RUN_VARIABLE];
  if (dir !== undefined) appendFileSync(fileIn(dir), `${JSON.stringify(leftover)}\n`);
}

/** Of a run, and of those within it: tests of a copy of the checkout have a list of their own. */
export function readLeftovers(dir: string): Leftovers {
  const within = globSync(`tmp/*/${FILE}`, { cwd: dir }).map((path) => join(dir, path));
  return parseLeftovers([fileIn(dir), ...within].map(readIfThere).join("\n"));
}

function readIfThere(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return "";
  }
}

/** A line that was cut off, or names what no test makes, counts for nothing. */
export function parseLeftovers(text: string): Leftovers {
  const leftovers = text.split("\n").flatMap(parseLine).filter(hasTestName);
  const namesOf = (kind: Kind) => {
    const ofKind = leftovers.filter((leftover) => leftover.kind === kind);
    return [...new Set(ofKind.map(({ name }) => name))];
  };
  return {
    namespace: namesOf("namespace"),
    link: namesOf("link"),
    cgroup: namesOf("cgroup"),
    directory: namesOf("directory"),
    host: namesOf("host"),
    fleet: namesOf("fleet"),
  };
}

function parseLine(line: string): Leftover[] {
  try {
    return [JSON.parse(line) as Leftover];
  } catch {
    return [];
  }
}
