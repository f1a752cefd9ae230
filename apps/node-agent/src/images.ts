import { readdir, readlink } from "node:fs/promises";
import { join } from "node:path";
import { readJson } from "./host/files.ts";

/** image.json, as infra/images writes it. */
export interface Image {
  /** Absolute directory that holds kernel, initrd and rootfs.ext4. */
  dir: string;
  sha256: string;
  templateName: string;
  displayName: string;
  description: string;
  language: string;
  category: string;
  defaults: { vcpu: number; memoryMib: number; diskMib: number };
  kernelCmdline: string;
}

const DIGEST = /^[0-9a-f]{64}$/;

/** The images that templates point at: links in IMAGES_DIR. */
export async function listImages(imagesDir: string): Promise<Image[]> {
  const entries = await readdir(imagesDir, { withFileTypes: true });
  const images: Image[] = [];
  for (const entry of entries.filter((candidate) => candidate.isSymbolicLink())) {
    const dir = join(imagesDir, await readlink(join(imagesDir, entry.name)));
    const image = await readJson<Omit<Image, "dir">>(join(dir, "image.json"));
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
  const image = await readJson<Omit<Image, "dir">>(join(dir, "image.json"));
  return image === undefined ? undefined : { ...image, dir };
}
