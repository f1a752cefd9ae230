/** Bundles programs into one file each, which Node.js runs without any package. */
import { build } from "esbuild";

/** CommonJS packages call `require`, which an ES module lacks. */
const REQUIRE =
  'import { createRequire as torporCreateRequire } from "node:module"; ' +
  "const require = torporCreateRequire(import.meta.url);";

export interface BundledProgram {
  /** Name of the bundled file, without its ending `.mjs`. */
  out: string;
  /** Path of the source file. */
  in: string;
}

/**
 * Writes `<outDir>/<out>.mjs` for each program. Throws with esbuild's message when one cannot be
 * bundled.
 */
export async function bundle(programs: readonly BundledProgram[], outDir: string): Promise<void> {
  await build({
    entryPoints: [...programs],
    outdir: outDir,
    outExtension: { ".js": ".mjs" },
    bundle: true,
    platform: "node",
    target: "node24",
    format: "esm",
    banner: { js: REQUIRE },
    legalComments: "none",
    logLevel: "warning",
  });
}
