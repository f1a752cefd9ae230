/**
 * Manifest of a snapshot (manifest.json), or of a stopped sandbox's disk (disk.json). It may come
 * from another host or from the store: its names and numbers become paths here.
 */
import { type Static, Type } from "typebox";
import type { SavedMemory } from "../drivers/driver.ts";
import { jsonChecker } from "../host/json.ts";
import { FILE_NAME, MAX_FILE_BYTES } from "../store/format.ts";

const Sha256 = Type.String({ pattern: "^[0-9a-f]{64}$" });
const SizeBytes = Type.Integer({ minimum: 0, maximum: MAX_FILE_BYTES });

export const Manifest = Type.Object({
  format: Type.Literal(1),
  sandboxId: Type.String(),
  /** 0 in the golden snapshot of an image. */
  generation: Type.Integer({ minimum: 0 }),
  epoch: Type.Integer({ minimum: 0 }),
  driverFingerprint: Type.String(),
  imageSha256: Sha256,
  vcpu: Type.Integer({ minimum: 1 }),
  memoryMib: Type.Integer({ minimum: 1 }),
  /** Files of the memory, by name; none if the memory was dropped. */
  files: Type.Record(
    Type.String({ pattern: FILE_NAME }),
    Type.Object({ sizeBytes: SizeBytes, sha256: Sha256 }),
    { additionalProperties: false },
  ),
  diskSizeBytes: SizeBytes,
  guestSynced: Type.Boolean(),
  createdAt: Type.String(),
});
export type Manifest = Static<typeof Manifest>;

const check = jsonChecker(Manifest);

/** The manifest, or why the text is none that this agent understands. */
export const manifestIn = (text: string): Manifest | Error => check("the manifest", text);

/** The same, but the reason is thrown. */
export function decodeManifest(text: string): Manifest {
  const manifest = manifestIn(text);
  if (manifest instanceof Error) throw manifest;
  return manifest;
}

/** Input of a driver's restore. */
export function savedMemory({ files, driverFingerprint }: Manifest): SavedMemory {
  return { files, fingerprint: driverFingerprint };
}
