/** What belongs to a run of the tests, and what became of it: decided over what was read before. */
import type { ProcessIdentity } from "@torpor/service";

/** The runner, in run.json. A pid means something in one namespace only. */
export interface TestRunRecord extends ProcessIdentity {
  pidNamespace: string;
}

export interface SeenRun {
  /** Undefined: it was killed before it had written one. */
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
 * `killed`: to be swept. `elsewhere`: in another pid namespace, of a container say, where it may be
 * alive. `foreign`: of another user, whose processes this one cannot end.
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
  /** Where its standard output and error go. */
  outputs: string[];
  /** As /proc names it: `net:[4026531840]`. */
  netNamespace: string;
}

/** What a run has of the machine that processes can be known by. */
export interface Belongings {
  /** Directories. */
  places: string[];
  netNamespaces: string[];
}

/** Shells set these for whatever they start. */
const SET_BY_SHELLS = /^(PWD|OLDPWD|_)=/;
const PART_OF_A_NAME = /[A-Za-z0-9._-]/;

/** Whether the text names the directory or what is below it, not one whose name begins the same. */
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
 * The processes that a run has started, and all that those have started; `own`, who asks, and its
 * ancestors are none.
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
 * A name in the environment, or the network, is proof. Who works in a directory, names it or writes
 * there may be somebody who looks at what a run has left, before a terminal.
 */
function isOf({ places, netNamespaces }: Belongings, process: SeenProcess): boolean {
  const { hasTerminal, cwd, args, env, outputs, netNamespace } = process;
  const namesPlace = (text: string) => places.some((place) => mentions(text, place));
  if (netNamespaces.includes(netNamespace)) return true;
  if (env.some((entry) => !SET_BY_SHELLS.test(entry) && namesPlace(entry))) return true;
  if (hasTerminal) return false;
  return [cwd, ...outputs].some((path) => isBelow(path, places)) || args.some(namesPlace);
}

/** With the process itself. */
function ancestorsOf(pid: number, seen: SeenProcess[]): Set<number> {
  const parents = new Map(seen.map((process) => [process.pid, process.parent]));
  const found = new Set<number>();
  for (let at: number | undefined = pid; at !== undefined; at = parents.get(at)) found.add(at);
  return found;
}

/** Mount points below the places, from /proc/self/mountinfo: what was mounted last is first. */
export function mountsOf(places: string[], mountinfo: string): string[] {
  const points = mountinfo.split("\n").flatMap((line) => line.split(" ").slice(4, 5));
  return points
    .map(unescaped)
    .filter((point) => isBelow(point, places))
    .toReversed();
}

/** Spaces and the like are written as `\040`. */
function unescaped(text: string): string {
  const character = (octal: string) => String.fromCharCode(Number.parseInt(octal, 8));
  return text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => character(octal));
}
