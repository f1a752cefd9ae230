/** Programs that the node-agent runs. */
import { access, constants, readdir } from "node:fs/promises";
import { join } from "node:path";
import { SUPPORTED_MAJOR } from "../drivers/cloud-hypervisor/versions.ts";
import {
  type Check,
  type Finding,
  type CheckedMachine,
  missing,
  missingForKvm,
  ok,
} from "./finding.ts";

const PROGRAMS: Record<string, string> = {
  nft: "nftables",
  ip: "iproute2",
  setpriv: "util-linux",
  nsenter: "util-linux",
  flock: "util-linux",
  tar: "tar",
  cp: "coreutils",
};

export const PROGRAM_CHECKS: Check[] = [
  ...Object.entries(PROGRAMS).map(([name, debianPackage]): Check => ({
    name,
    look: (machine) => program(machine, name, debianPackage),
  })),
  { name: "cloud-hypervisor", look: cloudHypervisor },
  { name: "python3", look: python },
];

async function program(
  machine: CheckedMachine,
  name: string,
  debianPackage: string,
): Promise<Finding> {
  for (const directory of (machine.env["PATH"] ?? "").split(":").filter((entry) => entry !== "")) {
    const path = join(directory, name);
    const isThere = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (isThere) return ok(path);
  }
  return missing("not in PATH", `apt-get install ${debianPackage}`);
}

async function python(machine: CheckedMachine): Promise<Finding> {
  const { driver } = machine.settings;
  if (driver !== "simulated") return ok(`not needed with DRIVER=${driver}`);
  return await program(machine, "python3", "python3");
}

/** Finds the binary as the driver does: one binary, or the versions in a directory. */
async function cloudHypervisor(machine: CheckedMachine): Promise<Finding> {
  const remedy = `give install.sh --cloud-hypervisor a release binary of ${SUPPORTED_MAJOR}.x`;
  const found: string[] = [];
  for (const path of await cloudHypervisorBinaries(machine)) {
    const { code, output } = await machine.run(path, ["--version"]);
    const version = /^cloud-hypervisor v?(\d+)(\S*)/m.exec(output);
    if (code === 0 && version !== null && Number(version[1]) === SUPPORTED_MAJOR)
      return ok(`${version[1]}${version[2]} (${path})`);
    found.push(
      `${path} is ${code === 0 ? `"${output.trim()}"` : `nothing that can be run (code ${code})`}`,
    );
  }
  return missingForKvm(machine, found.length === 0 ? "there is none" : found.join(", "), remedy);
}

async function cloudHypervisorBinaries({ root, settings }: CheckedMachine): Promise<string[]> {
  const { cloudHypervisorBin: bin, cloudHypervisorDir: dir } = settings;
  const versions = await readdir(join(root, dir)).catch(() => []);
  return [
    ...(bin === undefined ? [] : [bin]),
    ...versions.map((version) => join(root, dir, version, "cloud-hypervisor")),
  ];
}
