/**
 * Copies of a sandbox at rest: the snapshot with the disk if the sandbox is paused, only the disk
 * if it is stopped. The disk of a stop also counts as a snapshot, without memory: it takes the next
 * generation, so that (generation, manifest) names any copy.
 */
import { constants } from "node:fs";
import { copyFile, link, mkdir, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import type { SandboxId, SnapshotFacts } from "@torpor/contracts";
import { writeDurably } from "../host/files.ts";
import { sha256Hex } from "../store/format.ts";
import type { SnapshotCopy } from "../store/read-chunks.ts";
import { decodeManifest, type Manifest, manifestIn } from "./manifest.ts";
import { snapshotOf, type VmRecord } from "./record.ts";
import { factsOf, ownManifest, snapshotDir } from "./snapshot.ts";

export const DISK = "disk.raw";
const DISK_MANIFEST = "disk.json";
const MANIFEST = "manifest.json";
const RECORD = "record.json";

export interface Copyable {
  copy: SnapshotCopy;
  manifest: Manifest;
  facts: SnapshotFacts;
}

/**
 * Copyable files in the directory of a paused or stopped sandbox. The manifest of a stopped one is
 * written at the first call after each stop.
 */
export async function copyableOf(
  record: VmRecord,
  vmDir: string,
  driverFingerprint: string,
): Promise<Copyable> {
  const { sandboxId } = record.spec;
  const isPaused = record.state === "paused";
  const dir = snapshotDir(vmDir, record.generation);
  const text = isPaused
    ? await readFile(join(dir, MANIFEST), "utf8")
    : await diskManifest(record, vmDir, driverFingerprint);
  const manifest = isPaused ? manifestToCopy(text, record) : decodeManifest(text);
  const files = Object.fromEntries(
    Object.keys(manifest.files).map((name) => [name, join(dir, name)]),
  );
  const copy = {
    sandboxId,
    generation: manifest.generation,
    manifest: text,
    record: JSON.stringify(record),
    files: { ...files, [DISK]: join(vmDir, DISK) },
  };
  return { copy, manifest, facts: await factsOfCopy(manifest, copy) };
}

function manifestToCopy(text: string, record: VmRecord): Manifest {
  const own = ownManifest(text, record, record.generation);
  if (own.kind === "foreign") throw new Error(`the snapshot is not copied: ${own.reason}`);
  return own.manifest;
}

/** Facts of a copy, as the control plane stores them. */
async function factsOfCopy(manifest: Manifest, copy: SnapshotCopy): Promise<SnapshotFacts> {
  const facts = factsOf({ kind: "valid", manifest, manifestSha256: sha256Hex(copy.manifest) });
  if (Object.keys(manifest.files).length > 0) return facts;
  return { ...facts, sizeBytes: (await stat(copy.files[DISK] ?? "")).blocks * 512 };
}

async function diskManifest(
  record: VmRecord,
  vmDir: string,
  driverFingerprint: string,
): Promise<string> {
  const { spec, epoch } = record;
  const snapshot = snapshotOf(record);
  const known = await readDiskManifest(vmDir);
  if (snapshot !== undefined && !isNamed(known, snapshot))
    throw new Error("the disk has another name than its record says");
  if (known !== undefined && (snapshot !== undefined || isOfThisStop(known, record))) return known;
  const manifest: Manifest = {
    format: 1,
    sandboxId: spec.sandboxId,
    generation: record.generation + 1,
    epoch,
    driverFingerprint,
    imageSha256: spec.imageSha256,
    vcpu: spec.resources.vcpu,
    memoryMib: spec.resources.memoryMib,
    files: {},
    diskSizeBytes: (await stat(join(vmDir, DISK))).size,
    guestSynced: true,
    createdAt: new Date().toISOString(),
  };
  return await keepDiskManifest(vmDir, JSON.stringify(manifest));
}

/** Writes the manifest of a disk that was fetched, or that a stop left. */
export async function keepDiskManifest(vmDir: string, text: string): Promise<string> {
  await writeDurably(join(vmDir, DISK_MANIFEST), text);
  return text;
}

/**
 * True if the disk in the directory has the name that is in the record. A crash may come between
 * the writes of the two.
 */
export async function hasName(vmDir: string, snapshot: SnapshotFacts): Promise<boolean> {
  return isNamed(await readDiskManifest(vmDir), snapshot);
}

async function readDiskManifest(vmDir: string): Promise<string | undefined> {
  return await readFile(join(vmDir, DISK_MANIFEST), "utf8").catch(() => undefined);
}

function isNamed(text: string | undefined, { manifestSha256 }: SnapshotFacts): boolean {
  return text !== undefined && sha256Hex(text) === manifestSha256;
}

/** A sandbox is stopped once per run. */
function isOfThisStop(text: string, { epoch, generation }: VmRecord): boolean {
  const manifest = manifestIn(text);
  if (manifest instanceof Error) return false;
  return manifest.epoch === epoch && manifest.generation === generation + 1;
}

const cloneName = (generation: number) => `frozen.${generation}`;

/**
 * Clones the files at one instant: the disk by reflink, the memory files, which never change, by
 * hard link. Later writes to the disk do not reach the clone. Undefined if that fails, as on a file
 * system without reflinks.
 */
export async function cloneDisk(
  vmDir: string,
  { copy, manifest }: Copyable,
): Promise<Copyable | undefined> {
  const dir = join(vmDir, cloneName(manifest.generation));
  const known = await clonesIn(copy.sandboxId, vmDir, manifest.generation);
  if (known?.copy.manifest === copy.manifest) return known;
  const unfinished = `${dir}.tmp`;
  await rm(unfinished, { recursive: true, force: true });
  await mkdir(unfinished, { mode: 0o700 });
  try {
    await copyFile(join(vmDir, DISK), join(unfinished, DISK), constants.COPYFILE_FICLONE_FORCE);
    for (const [name, path] of Object.entries(copy.files))
      if (name !== DISK) await link(path, join(unfinished, name));
    await writeDurably(join(unfinished, MANIFEST), copy.manifest);
    await writeDurably(join(unfinished, RECORD), copy.record);
    await rm(dir, { recursive: true, force: true });
    await rename(unfinished, dir);
    return await clonesIn(copy.sandboxId, vmDir, manifest.generation);
  } catch {
    await rm(unfinished, { recursive: true, force: true });
    return undefined;
  }
}

/** Clone of that generation; undefined if there is none. */
export async function clonesIn(
  sandboxId: SandboxId,
  vmDir: string,
  generation: number,
): Promise<Copyable | undefined> {
  const dir = join(vmDir, cloneName(generation));
  const read = (name: string) => readFile(join(dir, name), "utf8").catch(() => undefined);
  const [text, record] = [await read(MANIFEST), await read(RECORD)];
  if (text === undefined || record === undefined) return undefined;
  const manifest = decodeManifest(text);
  const names = [...Object.keys(manifest.files), DISK];
  const files = Object.fromEntries(names.map((name) => [name, join(dir, name)]));
  const copy = { sandboxId, generation, manifest: text, record, files };
  return { copy, manifest, facts: await factsOfCopy(manifest, copy) };
}

/** Removes clones, finished or not, except the one of generation `keep`. */
export async function removeClones(vmDir: string, keep?: number): Promise<void> {
  const names = await readdir(vmDir).catch(() => []);
  for (const name of names.filter(
    (entry) => entry.startsWith("frozen.") && (keep === undefined || entry !== cloneName(keep)),
  ))
    await rm(join(vmDir, name), { recursive: true, force: true });
}
