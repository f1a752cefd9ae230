/**
 * Checks of a snapshot's files against its manifest. Each function returns the end of a sentence
 * about the snapshot, or undefined if nothing is wrong.
 */
import { join } from "node:path";
import type { SnapshotFiles } from "./drivers/driver.ts";
import { sha256Of, sizeOf } from "./host/files.ts";

/** Compares only the sizes of the files. */
export async function wrongSize(dir: string, files: SnapshotFiles): Promise<string | undefined> {
  for (const [name, { sizeBytes }] of Object.entries(files)) {
    const size = await sizeOf(join(dir, name));
    if (size === undefined) return `its file "${name}" is missing`;
    if (size !== sizeBytes)
      return `its file "${name}" has ${size} bytes, its manifest says ${sizeBytes}`;
  }
  return undefined;
}

/** Reads and hashes all files. */
export async function wrongHash(
  dir: string,
  files: SnapshotFiles,
  signal?: AbortSignal,
): Promise<string | undefined> {
  for (const [name, { sha256 }] of Object.entries(files)) {
    if ((await sha256Of(join(dir, name), signal)) !== sha256)
      return `its file "${name}" is damaged: its SHA-256 differs from its manifest's`;
  }
  return undefined;
}
