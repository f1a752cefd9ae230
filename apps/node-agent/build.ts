/**
 * Programs as one file each that Node.js 24 runs by itself. `node build.ts <outDir>` makes the release of the node-agent:
 * torpor-node-agent.mjs, torpor-fence.mjs, the simulated VMM for trying a host without virtual machines, and infra/host,
 * so that the directory can be carried to a host as it is. `node build.ts <outDir> <name>=<file>…` makes those programs
 * instead.
 */
import { cp, mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { bundle, type Program } from "@torpor/programs";

const here = fileURLToPath(new URL(".", import.meta.url));

const RELEASE: Program[] = [
  { out: "torpor-node-agent", in: join(here, "src/command.ts") },
  { out: "torpor-fence", in: join(here, "src/fence/main.ts") },
  { out: "torpor-simulated-vmm", in: join(here, "src/drivers/simulated/vmm.ts") },
];

const [outDir, ...others] = process.argv.slice(2);
if (outDir === undefined) throw new Error("usage: node build.ts <outDir> [<name>=<file>…]");
await mkdir(outDir, { recursive: true });
await bundle(others.length === 0 ? RELEASE : others.map(named), outDir);
if (others.length === 0) {
  await rm(join(outDir, "host"), { recursive: true, force: true });
  await cp(join(here, "../../infra/host"), join(outDir, "host"), { recursive: true });
}

function named(argument: string): Program {
  const [out, file] = argument.split("=");
  if (out === undefined || file === undefined) throw new Error(`"${argument}" is no <name>=<file>`);
  return { out, in: file };
}
