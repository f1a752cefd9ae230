/** The files that a VM directory starts with: those of its image, and a disk of its own. */
import { chmod, chown, link, mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { copySparsely, fsyncPath, renameDurably } from "../host/files.ts";
import { findImage, type Image } from "../images.ts";
import type { LifecycleDeps } from "./context.ts";

/** A VM directory for a snapshot that comes from elsewhere. */
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

/** Image files by hard link (one copy of them on a host), the disk as `makeDisk` makes it. */
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
    // The VMM's user may pass, and write to its run directory alone.
    await chown(dir, process.getuid?.() ?? 0, deps.uid);
    await chmod(dir, 0o710);
  }
  await renameDurably(unfinished, join(dir, "disk.raw"));
}
