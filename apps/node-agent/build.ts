/**
 * The release of the node-agent: one file that Node.js 24 runs by itself, and what installs it. `node build.ts <outDir>` writes torpor-node-agent.mjs, the
 * simulated VMM for trying a host without virtual machines, and infra/host, so that the directory can be carried to a host as it is.
 */
import { cp, mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));
/** Packages of the CommonJS kind ask for `require`, which an ES module has not. */
const REQUIRE = 'import { createRequire as torporCreateRequire } from "node:module"; const require = torporCreateRequire(import.meta.url);';

const outDir = process.argv[2];
if (outDir === undefined) throw new Error("usage: node build.ts <outDir>");
await mkdir(outDir, { recursive: true });
const programs = { "torpor-node-agent": "src/command.ts", "torpor-simulated-vmm": "src/drivers/simulated/vmm.ts" };
await build({
  entryPoints: Object.entries(programs).map(([out, file]) => ({ in: join(here, file), out })),
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
await rm(join(outDir, "host"), { recursive: true, force: true });
await cp(join(here, "../../infra/host"), join(outDir, "host"), { recursive: true });
