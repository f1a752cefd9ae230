import { readdir, readlink } from "node:fs/promises";
import { join } from "node:path";
import { Resources } from "@torpor/contracts";
import { type Static, Type } from "typebox";
import { jsonReader } from "../host/json.ts";

/** image.json, as infra/images writes it. */
const ImageFile = Type.Object({
  sha256: Type.String({ pattern: "^[0-9a-f]{64}$" }),
  templateName: Type.String(),
  displayName: Type.String(),
  description: Type.String(),
  language: Type.String(),
  category: Type.String(),
  defaults: Resources,
  kernelCmdline: Type.String(),
});

export type Image = Static<typeof ImageFile> & {
  /** Absolute directory that holds kernel, initrd and rootfs.ext4. */
  dir: string;
};

const readImage = jsonReader(ImageFile);
const DIGEST = /^[0-9a-f]{64}$/;

/** The images that templates point at: links in IMAGES_DIR. */
export async function listImages(imagesDir: string): Promise<Image[]> {
  const entries = await readdir(imagesDir, { withFileTypes: true });
  const images: Image[] = [];
  for (const entry of entries.filter((candidate) => candidate.isSymbolicLink())) {
    const dir = join(imagesDir, await readlink(join(imagesDir, entry.name)));
    const image = await readImage(join(dir, "image.json"));
    if (image !== undefined) images.push({ ...image, dir });
  }
  return images;
}

/**
 * Images that no template points at any more. Sandboxes that began with such an image may still
 * exist, and a template may name the image again.
 */
export async function listFormerImages(imagesDir: string, linked: Image[]): Promise<Image[]> {
  const known = new Set(linked.map(({ sha256 }) => sha256));
  const names = (await readdir(imagesDir)).filter((name) => DIGEST.test(name) && !known.has(name));
  const images = await Promise.all(names.map(async (sha256) => await findImage(imagesDir, sha256)));
  return images.filter((image) => image !== undefined);
}

/**
 * Image with this digest, also if no template points at it. Undefined if this host does not hold
 * it.
 */
export async function findImage(imagesDir: string, sha256: string): Promise<Image | undefined> {
  const dir = join(imagesDir, sha256);
  const image = await readImage(join(dir, "image.json"));
  return image === undefined ? undefined : { ...image, dir };
}
