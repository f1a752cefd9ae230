/**
 * `torpor image`: builds the sandbox image from Debian packages, and the golden snapshot that
 * `create` restores. Unchanged ones are kept.
 */
import { join } from "node:path";
import { imagesDir, interrupted } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { run } from "@torpor/service";

export async function image(context: CommandContext): Promise<number> {
  await buildImage(context, interrupted());
  return 0;
}

export async function buildImage(context: CommandContext, signal: AbortSignal): Promise<void> {
  const { root } = context;
  const dir = imagesDir(root);
  await buildImageFiles(context, signal);
  const env = { IMAGES_DIR: dir, LOG_LEVEL: "warn" };
  const prepared = await run([process.execPath, join(root, "apps/node-agent/src/prepare.ts")], {
    cwd: root,
    isShown: true,
    env,
    signal,
  });
  if (prepared.code !== 0)
    throw new Error("the golden snapshot could not be made: see the message above");
}

/** Builds no golden snapshot: for hosts that make their own. */
export async function buildImageFiles(
  { root, write }: CommandContext,
  signal: AbortSignal,
): Promise<void> {
  write("image: code-interpreter");
  const built = await run([join(root, "infra/images/code-interpreter/build.sh"), imagesDir(root)], {
    cwd: root,
    isShown: true,
    signal,
  });
  if (built.code !== 0) throw new Error("the image could not be built: see the message above");
}
