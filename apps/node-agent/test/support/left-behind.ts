/**
 * Traces of a lost host, in a form that is equal for two hosts that were lost at the same point.
 */
import { createHash } from "node:crypto";
import { readdir, readFile, stat } from "node:fs/promises";
import { join, relative } from "node:path";
import { until } from "@torpor/testkit/basics";
import type { Driver } from "../../src/drivers/driver.ts";
import { vmIn, vmmProcesses } from "./test-host.ts";

/**
 * Files that the VMM writes at its own pace: a run's directory, and that of vsock and serial line.
 */
const OF_VMM = /^(vm\/[^/]+)\/(r\d+|io)\//;
/** Memory holds the sandbox's key, so only its size is compared. */
const MEMORY = /\/memory(-ranges)?$/;
/** Suffix of a name in the trash. */
const RANDOM_SUFFIX = /\.[0-9a-f]{8}(?=\/|$)/;
/** Values that every host makes or measures itself, or hashes of such values. */
const OWN: ReadonlySet<string> = new Set([
  "agentKey",
  "bootId",
  "createdAt",
  "machineId",
  "manifestSha256",
  "observedAt",
  "pid",
  "port",
  "sha256",
  "startTime",
  "timingsMs",
]);

/** Each file's content, or its size or hash, and the state of the VMMs, by name. */
type LeftBehind = Map<string, string>;

export async function leftBehind(dir: string, driver: Driver): Promise<LeftBehind> {
  const left: LeftBehind = new Map();
  for (const entry of await readdir(dir, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    const name = relative(dir, path);
    if (OF_VMM.test(name)) continue;
    left.set(name.replace(RANDOM_SUFFIX, ""), entry.isFile() ? await told(path) : "a directory");
  }
  left.set("VMM processes, recorded or not", String(vmmProcesses(dir).length));
  // A VMM that has just started does not reply yet.
  const settled = async () => (await driver.inspect(vmIn(dir))).kind.replace("unknown", "");
  left.set("vCPUs of the recorded VMM", await until("the VMM answers", settled));
  return left;
}

async function told(path: string): Promise<string> {
  if (MEMORY.test(path)) return `${(await stat(path)).size} bytes`;
  const content = await readFile(path);
  if (!path.endsWith(".json")) return createHash("sha256").update(content).digest("hex");
  const withoutOwn = (key: string, value: unknown) => (OWN.has(key) ? key : value);
  return JSON.stringify(JSON.parse(content.toString("utf8"), withoutOwn));
}

export function differences(one: LeftBehind, other: LeftBehind): string[] {
  const names = new Set([...one.keys(), ...other.keys()]);
  return [...names]
    .filter((name) => one.get(name) !== other.get(name))
    .map((name) => `${name}: ${one.get(name) ?? "nothing"}, and ${other.get(name) ?? "nothing"}`);
}
