/**
 * What belongs to a test run, and the state of the run: pure decisions over data that was read
 * before.
 */
import type { ProcessIdentity } from "@torpor/service";

/** The runner, in run.json. A pid is valid in one namespace only. */
export interface TestRunRecord extends ProcessIdentity {
  pidNamespace: string;
}

export interface SeenRun {
  /** Undefined if the runner was killed before it wrote the record. */
  record: TestRunRecord | undefined;
  isRunnerAlive: boolean;
  ownerUid: number;
}

export interface Here {
  bootId: string;
  pidNamespace: string;
  uid: number;
}

/**
 * `killed`: to be swept. `elsewhere`: in another pid namespace, for example of a container, where
 * it may be alive. `foreign`: of another user, whose processes this user cannot end.
 */
type Standing = "alive" | "killed" | "elsewhere" | "foreign";

export function standingOf({ record, isRunnerAlive, ownerUid }: SeenRun, here: Here): Standing {
  if (record !== undefined && record.bootId === here.bootId) {
    if (record.pidNamespace !== here.pidNamespace) return "elsewhere";
    if (isRunnerAlive) return "alive";
  }
  return here.uid === 0 || here.uid === ownerUid ? "killed" : "foreign";
}

export interface SeenProcess extends ProcessIdentity {
  parent: number;
  hasTerminal: boolean;
  cwd: string;
  args: string[];
  env: string[];
  /** Targets of its standard output and error. */
  outputs: string[];
  /** As in /proc: `net:[4026531840]`. */
  netNamespace: string;
}

/** Properties of a run by which its processes are found. */
export interface Belongings {
  /** Directories. */
  places: string[];
  netNamespaces: string[];
}

/** Shells set these in every process that they start. */
const SET_BY_SHELLS = /^(PWD|OLDPWD|_)=/;
const PART_OF_A_NAME = /[A-Za-z0-9._-]/;

/**
 * True if the text names the directory or a path below it, but not a longer name that begins the
 * same.
 */
export function mentions(text: string, directory: string): boolean {
  const isPart = (at: number) => PART_OF_A_NAME.test(text[at] ?? "");
  for (let at = text.indexOf(directory); at !== -1; at = text.indexOf(directory, at + 1))
    if (!isPart(at - 1) && !isPart(at + directory.length)) return true;
  return false;
}

export function isBelow(path: string, places: string[]): boolean {
  return places.some((place) => path === place || path.startsWith(`${place}/`));
}

/**
 * The processes that a run has started, and their descendants, except the calling process `own` and
 * its ancestors.
 */
export function processesOf(run: Belongings, seen: SeenProcess[], own: number): SeenProcess[] {
  const spared = ancestorsOf(own, seen);
  const others = seen.filter(({ pid }) => !spared.has(pid));
  const children = Map.groupBy(others, ({ parent }) => parent);
  const found = new Set(others.filter((process) => isOf(run, process)));
  for (const { pid } of found) for (const child of children.get(pid) ?? []) found.add(child);
  return [...found];
}

/**
 * A name in the environment, or the network namespace, is proof. A process that only works in a
 * directory, names it or writes there may be a user's, who inspects the leftovers of a run from a
 * terminal.
 */
function isOf({ places, netNamespaces }: Belongings, process: SeenProcess): boolean {
  const { hasTerminal, cwd, args, env, outputs, netNamespace } = process;
  const namesPlace = (text: string) => places.some((place) => mentions(text, place));
  if (netNamespaces.includes(netNamespace)) return true;
  if (env.some((entry) => !SET_BY_SHELLS.test(entry) && namesPlace(entry))) return true;
  if (hasTerminal) return false;
  return [cwd, ...outputs].some((path) => isBelow(path, places)) || args.some(namesPlace);
}

/** Includes the process itself. */
function ancestorsOf(pid: number, seen: SeenProcess[]): Set<number> {
  const parents = new Map(seen.map((process) => [process.pid, process.parent]));
  const found = new Set<number>();
  for (let at: number | undefined = pid; at !== undefined; at = parents.get(at)) found.add(at);
  return found;
}

/** Mount points below the places, from /proc/self/mountinfo; the last mount comes first. */
export function mountsOf(places: string[], mountinfo: string): string[] {
  const points = mountinfo.split("\n").flatMap((line) => line.split(" ").slice(4, 5));
  return points
    .map(unescaped)
    .filter((point) => isBelow(point, places))
    .toReversed();
}

/** Decodes octal escapes such as `\040` for a space. */
function unescaped(text: string): string {
  const character = (octal: string) => String.fromCharCode(Number.parseInt(octal, 8));
  return text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => character(octal));
}
