/** `torpor image`: the sandbox image from Debian packages, and the golden snapshot that `create` restores. With nothing changed both are found and kept. */
import { join } from "node:path";
import { imagesDir, interrupted } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { run } from "../run.ts";

export async function image(context: CommandContext): Promise<number> {
  await buildImage(context, interrupted());
  return 0;
}

export async function buildImage({ root, write }: CommandContext, signal: AbortSignal): Promise<void> {
  const dir = imagesDir(root);
  write("image: code-interpreter");
  const built = await run([join(root, "infra/images/code-interpreter/build.sh"), dir], { cwd: root, isShown: true, signal });
  if (built.code !== 0) throw new Error("the image could not be built: see the message above");
  const env = { IMAGES_DIR: dir, LOG_LEVEL: "warn" };
  const prepared = await run([process.execPath, join(root, "apps/node-agent/src/prepare.ts")], { cwd: root, isShown: true, env, signal });
  if (prepared.code !== 0) throw new Error("the golden snapshot could not be made: see the message above");
}
