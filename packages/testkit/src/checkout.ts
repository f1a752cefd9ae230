/** Copies of this checkout, in which the tests run as in the original. */
import { cp, mkdir, readdir, symlink } from "node:fs/promises";
import { join } from "node:path";
import { ROOT } from "./root.ts";

const NOT_COPIED: ReadonlySet<string> = new Set([".git", ".torpor", "node_modules"]);
/** Directories that the tests use but do not change. */
const SHARED = ["node_modules", ".torpor/tools", ".torpor/images"];

/**
 * Makes the directory `to`, which must not exist. The packages' own node_modules hold relative
 * links, which lead to the packages of the copy.
 */
export async function copyCheckout(to: string): Promise<void> {
  await mkdir(join(to, ".torpor"), { recursive: true });
  const names = (await readdir(ROOT)).filter((name) => !NOT_COPIED.has(name));
  for (const name of names)
    await cp(join(ROOT, name), join(to, name), { recursive: true, verbatimSymlinks: true });
  for (const name of SHARED) await symlink(join(ROOT, name), join(to, name));
}
