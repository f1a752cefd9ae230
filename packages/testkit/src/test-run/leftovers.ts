/**
 * Things of tests whose name is no path below their run's directory. Each name is recorded there
 * before the thing is made, so that the next run finds it if this one is killed (sweep.ts). Records
 * are never removed: a missing thing does no harm, and no name is used twice.
 */
import { appendFileSync, globSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Environment variable with the run's directory, for everything that a run starts. */
export const RUN_VARIABLE = "TORPOR_TEST_RUN";

/**
 * `namespace`: of `ip netns`. `link`: a network device of this machine. `cgroup`: the path of a
 * cgroup that contains those of VMs. `directory`: a directory that cannot be below TMPDIR. `host`:
 * DATA_DIR of VMs with their own namespaces. `fleet`: the directory of a fleet.
 */
type Kind = "namespace" | "link" | "cgroup" | "directory" | "host" | "fleet";

interface Leftover {
  kind: Kind;
  name: string;
}

/** Unique names by kind. */
export type Leftovers = Record<Kind, string[]>;

/** Patterns of names that only tests use: root removes by this list, and may remove anything. */
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

/**
 * Call this before making the thing. Writes nothing outside of `./torpor test`, where no run
 * sweeps.
 */
export function recordLeftover(leftover: Leftover): void {
  const { kind, name } = leftover;
  if (!hasTestName(leftover)) throw new Error(`a ${kind} of tests is not called ${name}`);
  const dir = process.env[RUN_VARIABLE];
  if (dir !== undefined) appendFileSync(fileIn(dir), `${JSON.stringify(leftover)}\n`);
}

/**
 * Leftovers of a run, and of runs within it: tests in a copy of the checkout have their own list.
 */
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

/** Ignores truncated lines, and names that no test uses. */
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
