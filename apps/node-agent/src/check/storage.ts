/** The data directory: owners and modes, reflinks, free space. */
import { messageOf } from "@torpor/service";
import { randomUUID } from "node:crypto";
import { rm, stat, statfs, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { advised, type Check, type Finding, type CheckedMachine, missing, ok } from "./finding.ts";

const ADVISED_FREE_GIB = 50;
const MINIMUM_FREE_GIB = 5;
const TRIED_BYTES = 65_536;
const OTHERS_MAY_PASS = 0o001;
const OTHERS_MAY_READ = 0o007;

export const STORAGE_CHECKS: Check[] = [
  { name: "data directory", look: (machine) => directory(machine, machine.settings.dataDir) },
  { name: "images directory", look: (machine) => directory(machine, machine.settings.imagesDir) },
  { name: "snapshot store", look: snapshotStore },
  { name: "reflink", look: reflink },
  { name: "one file system", look: oneFileSystem },
  { name: "free disk", look: freeDisk },
];

async function directory(machine: CheckedMachine, path: string): Promise<Finding> {
  const facts = await stat(join(machine.root, path)).catch(() => undefined);
  if (facts?.isDirectory() !== true)
    return missing(`${path} is not there`, "run infra/host/install.sh, which makes it");
  const mode = modeOf(facts);
  return (facts.mode & OTHERS_MAY_PASS) === 0
    ? missing(
        `${path} has mode ${mode}`,
        `chmod 755 ${path}: the VMM's user has to get through to its own directories`,
      )
    : ok(`${path}, mode ${mode}`);
}

async function snapshotStore(machine: CheckedMachine): Promise<Finding> {
  const { snapshotStore: kind, snapshotStoreDir: path, dataDir } = machine.settings;
  const remedy =
    "set SNAPSHOT_STORE to a directory that all hosts share, or to a bucket (docs/snapshots.md)";
  if (kind === "none")
    return advised("none", `what is paused here is lost with this host: ${remedy}`);
  if (kind !== "file") return ok(kind);
  if (path === undefined) return missing("SNAPSHOT_STORE_DIR is not set", remedy);
  const [store, data] = await Promise.all(
    [path, dataDir].map((each) => stat(join(machine.root, each)).catch(() => undefined)),
  );
  if (store?.isDirectory() !== true)
    return missing(
      `${path} is not there`,
      "make it and mount it: until then nothing is copied there",
    );
  const found = `${path}, mode ${modeOf(store)}`;
  if ((store.mode & OTHERS_MAY_READ) !== 0)
    return missing(found, `chmod 700 ${path}: it holds the memory of sandboxes`);
  if (store.dev !== data?.dev) return ok(found);
  return advised(
    `${path} is on the file system of ${dataDir}`,
    "it is lost with this host, though what it holds counts as replicated: mount a file system there that all hosts share",
  );
}

const modeOf = ({ mode }: { mode: number }) => (mode & 0o777).toString(8);

/** Makes a reflink: the type of a file system does not show what this one can do. */
async function reflink(machine: CheckedMachine): Promise<Finding> {
  const base = join(machine.root, machine.settings.dataDir, `.check-${randomUUID()}`);
  try {
    await writeFile(base, Buffer.alloc(TRIED_BYTES, 1));
    const { code } = await machine.run("cp", ["--reflink=always", "--", base, `${base}.copy`]);
    if (code === 0) return ok("works");
    return advised(
      "not possible here",
      `copies of disks take their full time and room: use an XFS (mkfs.xfs -m reflink=1) for ${machine.settings.dataDir}`,
    );
  } catch (error) {
    return missing(
      `${machine.settings.dataDir} cannot be written: ${messageOf(error)}`,
      "run this check as root, after infra/host/install.sh",
    );
  } finally {
    for (const path of [base, `${base}.copy`]) await rm(path, { force: true });
  }
}

/** Files are renamed and reflinked between the two directories. */
async function oneFileSystem(machine: CheckedMachine): Promise<Finding> {
  const { dataDir, imagesDir } = machine.settings;
  const [data, images] = await Promise.all(
    [dataDir, imagesDir].map((path) => stat(join(machine.root, path)).catch(() => undefined)),
  );
  if (data === undefined || images === undefined)
    return missing("a directory is not there", "run infra/host/install.sh, which makes it");
  return data.dev === images.dev
    ? ok("data and images")
    : missing(
        `${dataDir} and ${imagesDir} are on two`,
        "keep both on one file system: disks are reflinked from images",
      );
}

async function freeDisk(machine: CheckedMachine): Promise<Finding> {
  const facts = await statfs(join(machine.root, machine.settings.dataDir)).catch(() => undefined);
  if (facts === undefined)
    return missing(
      `${machine.settings.dataDir} is not there`,
      "run infra/host/install.sh, which makes it",
    );
  const freeGib = Math.floor((facts.bavail * facts.bsize) / 1024 ** 3);
  const remedy = "a pause writes a sandbox's whole memory: give the data directory a larger disk";
  if (freeGib < MINIMUM_FREE_GIB) return missing(`${freeGib} GiB`, remedy);
  return freeGib < ADVISED_FREE_GIB ? advised(`${freeGib} GiB`, remedy) : ok(`${freeGib} GiB`);
}
