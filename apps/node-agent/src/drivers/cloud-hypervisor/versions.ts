/**
 * The binaries of Cloud Hypervisor on this host. A snapshot restores only with the version that
 * wrote it, so older versions stay installed while a snapshot names them. New VMs get the newest
 * version of the one major version that this driver supports.
 */
import { execFile } from "node:child_process";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);
const VERSION_LIMIT_MS = 10_000;
export const SUPPORTED_MAJOR = 53;

export interface Binary {
  path: string;
  /** Version that the binary reports, without the `v`. */
  version: string;
}

export interface Binaries {
  /** The binary for new VMs. */
  current: Binary;
  /** All installed binaries, `current` first. */
  all: Binary[];
}

/**
 * Finds the binaries. `bin` is one binary; `dir` has any number of
 * `<dir>/<version>/cloud-hypervisor`. Both may be given. Throws if there is none for new VMs.
 */
export async function findBinaries(where: {
  bin?: string | undefined;
  dir?: string | undefined;
}): Promise<Binaries> {
  const paths = [
    ...(where.bin === undefined ? [] : [where.bin]),
    ...(where.dir === undefined ? [] : await pathsIn(where.dir)),
  ];
  if (paths.length === 0)
    throw new Error(
      "there is no Cloud Hypervisor: set CLOUD_HYPERVISOR_BIN to its binary, or CLOUD_HYPERVISOR_DIR to a directory of <version>/cloud-hypervisor",
    );
  const found: Binary[] = [];
  for (const path of paths) {
    const version = await versionOf(path);
    if (!found.some((one) => one.version === version)) found.push({ path, version });
  }
  const [current] = found
    .filter(({ version }) => majorOf(version) === SUPPORTED_MAJOR)
    .toSorted(newestFirst);
  if (current === undefined)
    throw new Error(
      `new VMs need Cloud Hypervisor ${SUPPORTED_MAJOR}; installed: ${found.map(({ path, version }) => `${version} (${path})`).join(", ")}`,
    );
  return { current, all: [current, ...found.filter((one) => one !== current)] };
}

async function pathsIn(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { withFileTypes: true }).catch((cause: unknown) => {
    throw new Error(
      `the directory of Cloud Hypervisor's versions, ${dir}, cannot be read: see CLOUD_HYPERVISOR_DIR`,
      { cause },
    );
  });
  return entries
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(dir, entry.name, "cloud-hypervisor"));
}

async function versionOf(path: string): Promise<string> {
  const { stdout } = await run(path, ["--version"], { timeout: VERSION_LIMIT_MS }).catch(
    (cause: unknown) => {
      throw new Error(
        `Cloud Hypervisor cannot be run as "${path}": install it there, or correct CLOUD_HYPERVISOR_BIN or CLOUD_HYPERVISOR_DIR`,
        {
          cause,
        },
      );
    },
  );
  const version = /cloud-hypervisor v?(\d\S*)/.exec(stdout)?.[1];
  if (version === undefined)
    throw new Error(
      `"${path} --version" names no version of Cloud Hypervisor: ${stdout.slice(0, 200)}`,
    );
  return version;
}

function majorOf(version: string): number {
  return Number.parseInt(version, 10);
}

function newestFirst(a: Binary, b: Binary): number {
  return b.version.localeCompare(a.version, "en", { numeric: true });
}
