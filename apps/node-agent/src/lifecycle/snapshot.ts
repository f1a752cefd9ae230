/**
 * A snapshot: memory and disk at one instant, as one unit.
 *
 * SN1  `snap.<g>/` with a manifest is whole: the manifest is written and synced last, the directory
 *      renamed after it.
 * SN2  `snap.<g>.used/` may have run: it is never restored again, because the disk may have
 *      changed.
 * SN3  A valid snapshot never exists beside a running VM.
 */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { SnapshotFacts } from "@torpor/contracts";
import { fsyncPath, removeDurably, renameDurably, sizeOf, writeDurably } from "../host/files.ts";
import { wrongSize } from "../snapshot-files.ts";
import { sha256Hex } from "../store/format.ts";
import { messageOf } from "@torpor/service";
import { type Manifest, manifestIn } from "./manifest.ts";
import { snapshotOf, type VmRecord } from "./record.ts";

const nameOf = (generation: number) => `snap.${generation}`;
export const snapshotDir = (vmDir: string, generation: number) => join(vmDir, nameOf(generation));
const usedDir = (vmDir: string, generation: number) => `${snapshotDir(vmDir, generation)}.used`;
export const unfinishedDir = (vmDir: string, generation: number) =>
  `${snapshotDir(vmDir, generation)}.tmp`;

export type Found =
  | { kind: "valid"; manifest: Manifest; manifestSha256: string }
  | { kind: "invalid"; reason: string }
  | { kind: "used" }
  | { kind: "none" };

/**
 * Checks a sandbox's snapshot without reading its memory image, which is hashed during the restore.
 */
export async function findSnapshot(
  vmDir: string,
  record: VmRecord,
  generation = record.generation,
): Promise<Found> {
  const text = await readFile(join(snapshotDir(vmDir, generation), "manifest.json"), "utf8").catch(
    () => undefined,
  );
  if (text === undefined) {
    const names = await readdir(vmDir);
    if (names.includes(`${nameOf(generation)}.used`)) return { kind: "used" };
    return names.includes(nameOf(generation))
      ? { kind: "invalid", reason: "it has no manifest" }
      : { kind: "none" };
  }
  const own = ownManifest(text, record, generation);
  if (own.kind === "foreign") return { kind: "invalid", reason: own.reason };
  const reason = await damage(vmDir, own.manifest);
  return reason === undefined ? { ...own, kind: "valid" } : { kind: "invalid", reason };
}

/**
 * Manifest of this sandbox's snapshot, or the reason why it is foreign: a VMM cannot tell snapshots
 * of one size and image apart, and would run the memory over another sandbox's disk.
 */
export function ownManifest(
  text: string,
  record: VmRecord,
  generation: number,
):
  | { kind: "own"; manifest: Manifest; manifestSha256: string }
  | { kind: "foreign"; reason: string } {
  const foreign = (reason: string) => ({ kind: "foreign", reason }) as const;
  const { spec } = record;
  const snapshot = snapshotOf(record);
  const manifest = manifestIn(text);
  if (manifest instanceof Error)
    return foreign(`its manifest cannot be read: ${messageOf(manifest)}`);
  if (manifest.sandboxId !== spec.sandboxId)
    return foreign(`it is of another sandbox, ${manifest.sandboxId}`);
  if (manifest.generation !== generation)
    return foreign(`it is of generation ${manifest.generation}, not ${generation}`);
  if (manifest.imageSha256 !== spec.imageSha256) return foreign("it is of another image");
  const manifestSha256 = sha256Hex(text);
  if (snapshot?.generation === generation && snapshot.manifestSha256 !== manifestSha256)
    return foreign("its manifest is not the one that was written when it was taken");
  return { kind: "own", manifest, manifestSha256 };
}

async function damage(vmDir: string, manifest: Manifest): Promise<string | undefined> {
  const wrong = await wrongSize(snapshotDir(vmDir, manifest.generation), manifest.files);
  if (wrong !== undefined) return wrong;
  const diskSize = await sizeOf(join(vmDir, "disk.raw"));
  if (diskSize !== manifest.diskSizeBytes)
    return `the disk has ${diskSize ?? "no"} bytes, the manifest says ${manifest.diskSizeBytes}`;
  return undefined;
}

/** Turns `snap.<g>.tmp/` into a snapshot. */
export async function sealSnapshot(vmDir: string, manifest: Manifest): Promise<void> {
  const unfinished = unfinishedDir(vmDir, manifest.generation);
  await fsyncPath(join(vmDir, "disk.raw"));
  await writeDurably(join(unfinished, "manifest.json"), JSON.stringify(manifest));
  await fsyncPath(unfinished);
  await renameDurably(unfinished, snapshotDir(vmDir, manifest.generation));
}

/** Consumes the snapshot: from here on its memory may have run. */
export async function markUsed(vmDir: string, generation: number): Promise<void> {
  await renameDurably(snapshotDir(vmDir, generation), usedDir(vmDir, generation));
}

/** Removes every snapshot of the VM, finished or not, except generation `keep`. */
export async function removeSnapshots(vmDir: string, keep?: number): Promise<void> {
  const names = await readdir(vmDir);
  for (const name of names.filter(
    (entry) => entry.startsWith("snap.") && (keep === undefined || entry !== nameOf(keep)),
  ))
    await removeDurably(join(vmDir, name));
}

export function factsOf(found: Extract<Found, { kind: "valid" }>): SnapshotFacts {
  const { manifest, manifestSha256 } = found;
  const sizeBytes = Object.values(manifest.files).reduce((sum, file) => sum + file.sizeBytes, 0);
  return {
    generation: manifest.generation,
    sizeBytes,
    manifestSha256,
    guestSynced: manifest.guestSynced,
    storeKey: null,
    driverFingerprint: manifest.driverFingerprint,
  };
}
