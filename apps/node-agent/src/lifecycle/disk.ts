/** The files that a VM directory starts with: the image's files, and a disk. */
import { chmod, chown, link, mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { copySparsely, fsyncPath, renameDurably } from "../host/files.ts";
import { findImage, type Image } from "../images/images.ts";
import type { LifecycleDeps } from "./context.ts";

/** Makes the VM directory of a fetched snapshot. Throws if the image is not on this host. */
export async function linkFromImage(
  deps: Pick<LifecycleDeps, "uid" | "imagesDir">,
  imageSha256: string,
  dir: string,
  makeDisk: (path: string) => Promise<void>,
): Promise<void> {
  const image = await findImage(deps.imagesDir, imageSha256);
  if (image === undefined) throw new Error(`image ${imageSha256} is not on this host`);
  await linkImage(deps, image, dir, makeDisk);
}

/** Links the image files (one copy of them per host), and makes the disk with `makeDisk`. */
export async function linkImage(
  deps: Pick<LifecycleDeps, "uid">,
  image: Image,
  dir: string,
  makeDisk: (path: string) => Promise<void>,
): Promise<void> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  for (const name of ["kernel", "initrd", "rootfs.ext4"]) {
    await rm(join(dir, name), { force: true });
    await link(join(image.dir, name), join(dir, name)).catch(async (error: unknown) => {
      if ((error as NodeJS.ErrnoException).code !== "EXDEV") throw error;
      await copySparsely(join(image.dir, name), join(dir, name));
    });
  }
  const unfinished = join(dir, "disk.raw.tmp");
  await makeDisk(unfinished);
  await fsyncPath(unfinished);
  if (deps.uid !== undefined) {
    await chown(unfinished, deps.uid, deps.uid);
    // The VMM's user may enter the directory, and write only to its run directory.
    await chown(dir, process.getuid?.() ?? 0, deps.uid);
    await chmod(dir, 0o710);
  }
  await renameDurably(unfinished, join(dir, "disk.raw"));
}
