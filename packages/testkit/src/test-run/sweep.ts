/**
 * Ends what a test run has left on the machine, and removes its directory.
 *
 * TS1  The run itself is not needed: it was killed. Its things are known by the name of its
 *      directory (belongs.ts), or were recorded before they were made (leftovers.ts).
 * - The directory is removed last, and only if all else is gone: this way nothing that is mounted
 *   there is removed with it, and the next sweep continues where this one stopped.
 */
import { existsSync, readdirSync, rmdirSync } from "node:fs";
import { rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { collectFleet, collectLeftovers } from "@torpor/fleet";
import { run, signalProcess } from "@torpor/service";
import { type Belongings, isBelow, mountsOf, processesOf, type SeenProcess } from "./belongs.ts";
import { endAll, type Thing } from "./end-all.ts";
import { netNamespaceNamed, readLoopDevices, readMountinfo, readProcesses } from "./kernel.ts";
import { type Leftovers, readLeftovers } from "./leftovers.ts";

export interface SweptRuns {
  /** Ended things, in words: `3 processes`. */
  ended: string[];
  /** Things that could not be ended, with the reason; the directory then stays. */
  failures: string[];
}

/** Time for a Postgres to free its shared memory: a killed one would leave it behind. */
const POSTGRES_LIMIT_MS = 8_000;
const SHOWN_COMMAND_LENGTH = 80;

export async function sweepRun(dir: string): Promise<SweptRuns> {
  const left = readLeftovers(dir);
  const places = [dir, ...left.directory];
  const netNamespaces = left.namespace.flatMap((name) => netNamespaceNamed(name) ?? []);
  const belongings = { places, netNamespaces };
  const steps: [string, string, () => Promise<number>][] = [
    ["process", "processes", () => endAll(() => processes(belongings))],
    ["network namespace", "network namespaces", () => endAll(() => namespaces(left.namespace))],
    ["network device", "network devices", () => endAll(() => links(left.link))],
    ["host of VMs", "hosts of VMs", () => collectHosts(left)],
    ["cgroup", "cgroups", () => endAll(() => cgroups(left.cgroup))],
    ["mount", "mounts", () => endAll(() => mounts(places))],
    ["loop device", "loop devices", () => endAll(() => loopDevices(places))],
  ];
  const swept: SweptRuns = { ended: [], failures: [] };
  const attempt = async (body: () => Promise<void>) => {
    await body().catch((error: unknown) => swept.failures.push(reasonOf(error)));
  };
  for (const [one, many, end] of steps)
    await attempt(async () => {
      const count = await end();
      if (count > 0) swept.ended.push(`${count} ${count === 1 ? one : many}`);
    });
  if (swept.failures.length === 0) await attempt(() => removeDirectories(places));
  return swept;
}

function processes(belongings: Belongings): Thing[] {
  const found = processesOf(belongings, readProcesses(), process.pid);
  const servers = new Set(found.filter(isPostgres).map(({ pid }) => pid));
  return found.map((seen) => ({
    name: `process ${seen.pid} (${shown(seen.args)})`,
    end: (elapsedMs) => {
      const isOfPostgres = servers.has(seen.pid) || servers.has(seen.parent);
      if (!isOfPostgres || elapsedMs > POSTGRES_LIMIT_MS) signalProcess(seen, "SIGKILL");
      else if (servers.has(seen.pid)) endPostgres(seen);
    },
  }));
}

function shown(args: string[]): string {
  return args.join(" ").replaceAll(/\s+/g, " ").slice(0, SHOWN_COMMAND_LENGTH);
}

function isPostgres({ args: [program = "", ...args] }: SeenProcess): boolean {
  return basename(program) === "postgres" && args.includes("-D");
}

/** Ends the server at once, with its own processes. SIGCONT, because it may be stopped. */
function endPostgres(server: SeenProcess): void {
  signalProcess(server, "SIGQUIT");
  signalProcess(server, "SIGCONT");
}

function namespaces(names: string[]): Thing[] {
  const left = names.filter((name) => netNamespaceNamed(name) !== undefined);
  return left.map((name) => ({ name, end: () => command("ip", "netns", "del", name) }));
}

function links(names: string[]): Thing[] {
  const left = names.filter((name) => existsSync(`/sys/class/net/${name}`));
  return left.map((name) => ({ name, end: () => command("ip", "link", "del", name) }));
}

function cgroups(paths: string[]): Thing[] {
  const left = paths.filter((path) => existsSync(path));
  return left.map((path) => ({ name: path, end: () => removeCgroup(path) }));
}

/** Removes the cgroup and those of VMs in it. */
function removeCgroup(path: string): void {
  const entries = readdirSync(path, { withFileTypes: true });
  for (const entry of entries) if (entry.isDirectory()) rmdirSync(join(path, entry.name));
  rmdirSync(path);
}

function mounts(places: string[]): Thing[] {
  const points = mountsOf(places, readMountinfo());
  return points.map((point) => ({ name: point, end: () => command("umount", point) }));
}

function loopDevices(places: string[]): Thing[] {
  const left = readLoopDevices().filter(({ file }) => isBelow(file, places));
  return left.map(({ device }) => ({ name: device, end: () => command("losetup", "-d", device) }));
}

/**
 * Removes what VMs of the hosts used besides files, if the directory still exists: a test that
 * ended in order has already removed it. Returns the number of hosts.
 */
async function collectHosts({ host, fleet }: Leftovers): Promise<number> {
  const isThere = (path: string) => existsSync(path);
  let count = 0;
  for (const dir of host.filter(isThere)) count += await collectHost(dir);
  for (const dir of fleet.filter(isThere)) count += await collectFleet(dir);
  return count;
}

/**
 * Does the same as the host's agent when it starts. The namespace for its VMs' egress is gone if it
 * was a test's; no other network of the machine uses this address range.
 */
async function collectHost(dataDir: string): Promise<number> {
  await collectLeftovers({
    name: `the host of ${dataDir}`,
    command: process.execPath,
    env: { DATA_DIR: dataDir, EGRESS: "off", VM_NETWORK_CIDR: "198.18.0.0/15" },
  });
  return 1;
}

/** Removes the run's own directory, which has all the records, last. */
async function removeDirectories(places: string[]): Promise<void> {
  // A process that was just killed may still have created a file.
  const options = { recursive: true, force: true, maxRetries: 10, retryDelay: 100 };
  for (const place of places.toReversed()) await rm(place, options);
}

async function command(...argv: string[]): Promise<void> {
  const env = { PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin` };
  const { code, output } = await run(argv, { cwd: "/", isShown: false, env });
  if (code !== 0) throw new Error(output.trim());
}

/** Includes the first line of the cause. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { message, cause } = error;
  return cause === undefined ? message : `${message}: ${reasonOf(cause).split("\n")[0]}`;
}
