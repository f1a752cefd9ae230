/**
 * The fingerprint of everything that a snapshot of Cloud Hypervisor depends on:
 * `cloud-hypervisor/<version>/<cpu>/<host kernel>/<network>`.
 *
 * Equal fingerprints restore. A host also accepts differences that an update brings and that had no
 * effect in practice: the CPU's microcode (the hash beside it covers the features that a guest
 * sees) and the kernel's release within its family.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { release } from "node:os";

const NAME = "cloud-hypervisor";

/** Parts of the fingerprint besides the VMM's version. */
export interface ProcessorFacts {
  /** vendor-family-model-stepping-microcode+<hash of the flags> */
  cpu: string;
  kernel: string;
  network: string;
}

export function fingerprintOf(version: string, host: ProcessorFacts): string {
  return [NAME, version, host.cpu, host.kernel, host.network]
    .map((part) => part.replaceAll(/[^A-Za-z0-9._+-]+/g, "_"))
    .join("/");
}

/** The VMM's version that a fingerprint names; undefined when another VMM wrote it. */
export function versionIn(fingerprint: string): string | undefined {
  const [name, version] = fingerprint.split("/");
  return name === NAME ? version : undefined;
}

/**
 * The reason why this host cannot restore a snapshot with `fingerprint`; undefined if none is
 * known. `versions` are the installed ones.
 */
export function incompatibility(
  fingerprint: string,
  versions: string[],
  host: ProcessorFacts,
): string | undefined {
  const [name, version = "", cpu = "", kernel = "", network = ""] = fingerprint.split("/");
  if (name !== NAME)
    return `another VMM wrote it (${fingerprint}); this host runs Cloud Hypervisor`;
  if (!versions.includes(version))
    return `it needs Cloud Hypervisor ${version}, and this host has ${versions.join(", ")}: install that version beside`;
  const [, , here, kernelHere, networkHere] = fingerprintOf(version, host).split("/");
  if (withoutMicrocode(cpu) !== withoutMicrocode(here ?? ""))
    return `it was written on another CPU (${cpu}); this host's is ${here}`;
  if (familyOf(kernel) !== familyOf(kernelHere ?? ""))
    return `it was written under Linux ${familyOf(kernel)}; this host runs ${familyOf(kernelHere ?? "")}`;
  if (network !== networkHere)
    return `its network is of the kind "${network}"; this host's VMs have "${networkHere}"`;
  return undefined;
}

function withoutMicrocode(cpu: string): string {
  return cpu.replace(/-[^-+]*\+/, "+");
}

/** Family of a release: 6.1 for 6.1.0-56-cloud-amd64. */
function familyOf(kernel: string): string {
  return /^\d+\.\d+/.exec(kernel)?.[0] ?? kernel;
}

export async function hostFacts(network: string): Promise<ProcessorFacts> {
  return { cpu: cpuOf(await readFile("/proc/cpuinfo", "utf8")), kernel: release(), network };
}

/** The `cpu` part, from the first processor in /proc/cpuinfo. */
export function cpuOf(cpuinfo: string): string {
  const field = (name: string) =>
    new RegExp(`^${name}\\s*: (.*)$`, "m").exec(cpuinfo)?.[1]?.trim() ?? "unknown";
  const flags = field("flags").split(/\s+/).toSorted().join(" ");
  const identity = ["vendor_id", "cpu family", "model", "stepping", "microcode"].map((name) =>
    field(name).replaceAll("-", "_"),
  );
  return `${identity.join("-")}+${createHash("sha256").update(flags).digest("hex").slice(0, 16)}`;
}
