/**
 * Programs as one file each that Node.js 24 runs by itself. `node build.ts <outDir>` makes the
 * release of the node-agent: torpor-node-agent.mjs, torpor-fence.mjs, torpor-simulated-vmm/ (for
 * trying a host without virtual machines; Python runs it) and infra/host, so that the directory can
 * be carried to a host as it is. `node build.ts <outDir> <name>=<file>…` makes those programs
 * instead.
 */
import { cp, mkdir, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { bundle, type BundledProgram } from "@torpor/programs";

const here = fileURLToPath(new URL(".", import.meta.url));

const RELEASE: BundledProgram[] = [
  { out: "torpor-node-agent", in: join(here, "src/command.ts") },
  { out: "torpor-fence", in: join(here, "src/fence/main.ts") },
];
/** Directories, as they are. */
const COPIES = [
  { out: "torpor-simulated-vmm", from: "src/drivers/simulated/vmm" },
  { out: "host", from: "../../infra/host" },
];

const [outDir, ...others] = process.argv.slice(2);
if (outDir === undefined) throw new Error("usage: node build.ts <outDir> [<name>=<file>…]");
await mkdir(outDir, { recursive: true });
await bundle(others.length === 0 ? RELEASE : others.map(named), outDir);
for (const { out, from } of others.length === 0 ? COPIES : []) {
  await rm(join(outDir, out), { recursive: true, force: true });
  const filter = (path: string) => basename(path) !== "__pycache__";
  await cp(join(here, from), join(outDir, out), { recursive: true, filter });
}

function named(argument: string): BundledProgram {
  const [out, file] = argument.split("=");
  if (out === undefined || file === undefined) throw new Error(`"${argument}" is no <name>=<file>`);
  return { out, in: file };
}
