/**
 * A test run that will be killed: `node killed-run.ts <root> [postgres]` begins a run in that
 * checkout, makes what tests make, prints a line of JSON about it, and stays.
 */
import { spawn, type SpawnOptions } from "node:child_process";
import { openSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { run } from "@torpor/service";
import { hostNetworkProblem, makeHostNetwork, startPostgres, tempDir } from "../../src/index.ts";
import { beginTestRun } from "../../src/test-run/index.ts";

export interface MadeByRun {
  dir: string;
  pids: Record<string, number>;
  /** Undefined if this machine allows no mount. */
  mount: string | undefined;
  /** Namespace of a host with its own network; undefined if this machine allows none. */
  namespace: string | undefined;
}

const SLEEP = ["sleep", "600"];
const [root = "", server] = process.argv.slice(2);
const begun = await beginTestRun(root, () => {});
const { path } = await tempDir();
const log = openSync(join(path, "log"), "a");

const env = { PATH: process.env["PATH"] };
const cwd = "/";
const stdio: SpawnOptions["stdio"] = "ignore";

/** Only the arguments and `options` of the process name the run. */
function start([command = "", ...args]: string[], options: SpawnOptions = {}): number {
  const child = spawn(command, args, { cwd, env, stdio, detached: true, ...options });
  child.unref();
  return child.pid ?? 0;
}

async function mountOne(): Promise<string | undefined> {
  const point = join(path, "mount");
  await mkdir(point);
  const command = ["mount", "-t", "tmpfs", "tmpfs", point];
  const { code } = await run(command, { cwd, isShown: false });
  return code === 0 ? point : undefined;
}

/** Returns the start of a command line that runs in the network. */
async function makeNetwork(): Promise<string[] | undefined> {
  if ((await hostNetworkProblem()) !== undefined) return undefined;
  const network = await makeHostNetwork(1);
  return network.hosts[0]?.prefix;
}

if (server === "postgres") await startPostgres();
const mount = await mountOne();
const prefix = await makeNetwork();
const pids: MadeByRun["pids"] = {
  "works in it": start(SLEEP, { cwd: path }),
  "has it in its environment": start(SLEEP, { env: { ...env, TMPDIR: process.env["TMPDIR"] } }),
  "names it": start(["tail", "-f", join(path, "log")]),
  "writes to it": start(SLEEP, { stdio: ["ignore", log, log] }),
  "has started one": start(["sh", "-c", `sleep 600; : ${path}`]),
};
if (mount !== undefined) pids["works in its mount"] = start(SLEEP, { cwd: mount });
if (prefix !== undefined) pids["is in its network"] = start([...prefix, ...SLEEP]);
const made: MadeByRun = { dir: begun.dir, pids, mount, namespace: prefix?.at(-1) };
process.stdout.write(`${JSON.stringify(made)}\n`);
setInterval(() => {}, 60_000);
