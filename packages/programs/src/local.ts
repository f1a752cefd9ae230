/**
 * The programs of a fleet on this machine, bundled below `.torpor/programs/`. A program that runs
 * from its sources strips the types of some hundred files at each start: ten times the CPU time and
 * five times the memory of its bundle.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { copyFile, glob, mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { bundle } from "./bundle.ts";

const SOURCES = {
  gateway: "apps/gateway/src/main.ts",
  scheduler: "apps/scheduler/src/main.ts",
  "node-agent": "apps/node-agent/src/command.ts",
  fence: "apps/node-agent/src/fence/main.ts",
  "torpor-simulated-vmm": "apps/node-agent/src/drivers/simulated/vmm.ts",
  "fake-cloud-hypervisor": "packages/fake-cloud-hypervisor/src/main.ts",
} as const;
const STAMP = "sources.sha256";
/** Runs the bundle beside it under the command line of the real one. */
const FAKE_CLOUD_HYPERVISOR = "packages/fake-cloud-hypervisor/bin/cloud-hypervisor";

export type LocalProgram = keyof typeof SOURCES;

/** Of the checkout. */
const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const DIRECTORY = join(ROOT, ".torpor/programs");

/**
 * Path of the fake Cloud Hypervisor, which `prepareLocalPrograms` makes; for CLOUD_HYPERVISOR_BIN.
 */
export const FAKE_CLOUD_HYPERVISOR_BIN = join(DIRECTORY, "cloud-hypervisor");

/** Path of the bundle, which `prepareLocalPrograms` makes. */
export function localProgram(name: LocalProgram): string {
  return join(DIRECTORY, `${name}.mjs`);
}

/**
 * Bundles every program when its sources have changed since the last time. A file is replaced as a
 * whole, so that fleets and commands that start at the same time see the old program or the new
 * one.
 */
export async function prepareLocalPrograms(): Promise<void> {
  const names = Object.keys(SOURCES) as LocalProgram[];
  const digest = await digestOfSources();
  const isCurrent = (await readFile(join(DIRECTORY, STAMP), "utf8").catch(() => "")) === digest;
  if (isCurrent && names.every((name) => existsSync(localProgram(name)))) return;
  await mkdir(DIRECTORY, { recursive: true });
  const made = await mkdtemp(join(DIRECTORY, "new-"));
  try {
    await bundle(
      names.map((out) => ({ out, in: join(ROOT, SOURCES[out]) })),
      made,
    );
    await copyFile(join(ROOT, FAKE_CLOUD_HYPERVISOR), join(made, "cloud-hypervisor"));
    await writeFile(join(made, STAMP), digest);
    for (const name of [...names.map((out) => `${out}.mjs`), "cloud-hypervisor", STAMP])
      await rename(join(made, name), join(DIRECTORY, name));
  } finally {
    await rm(made, { recursive: true, force: true });
  }
}

/** Of all that a bundle is made of. */
async function digestOfSources(): Promise<string> {
  const paths = await Array.fromAsync(glob("{apps,packages}/*/src/**/*.ts", { cwd: ROOT }));
  const hash = createHash("sha256");
  for (const path of [...paths.toSorted(), FAKE_CLOUD_HYPERVISOR, "pnpm-lock.yaml"])
    hash
      .update(`${path}\0`)
      .update(await readFile(join(ROOT, path)))
      .update("\0");
  return hash.digest("hex");
}
