/** A file system that shares blocks, as on production hosts: an XFS in a file. */
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { until } from "@torpor/testkit";

const run = promisify(execFile);
/** The minimum of mkfs.xfs. */
const SIZE_BYTES = 320 * 1024 ** 2;
const UNMOUNT_LIMIT_MS = 10_000;

/** Undefined if this machine cannot make or mount one. */
export async function mountXfs(): Promise<(AsyncDisposable & { path: string }) | undefined> {
  const dir = await mkdtemp(join(tmpdir(), "torpor-xfs-"));
  const [image, path] = [join(dir, "image"), join(dir, "mount")];
  const env = { PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin` };
  try {
    const handle = await open(image, "w");
    await handle.truncate(SIZE_BYTES);
    await handle.close();
    await mkdir(path);
    await run("mkfs.xfs", ["-q", image], { env });
    await run("mount", ["-o", "loop", image, path], { env });
  } catch {
    await rm(dir, { recursive: true, force: true });
    return undefined;
  }
  return {
    path,
    [Symbol.asyncDispose]: async () => {
      // Child processes of a killed VMM end a moment later, and use the file system until then.
      await until(
        "it is unmounted",
        () => run("umount", [path], { env }).catch(() => undefined),
        UNMOUNT_LIMIT_MS,
      );
      await rm(dir, { recursive: true, force: true });
    },
  };
}
