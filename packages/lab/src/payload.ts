/**
 * Files for the lab machine, in a directory that it mounts read-only: the release, Node.js, Cloud
 * Hypervisor, the host's settings and secrets.
 */
import { chmod, copyFile, mkdir, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Fleet } from "@torpor/fleet";
import { run } from "@torpor/service";
import { DATA_PLANE_PORT, HEALTH_PORT, LAB_NETWORK, type LabPorts } from "./machine.ts";
import { LAB_HOST_ID, LAB_HYPERVISOR, type LabOptions } from "./options.ts";

/** Memory for the machine's own system and agent. */
const RESERVED_MIB = 1024;
/** Address of this machine in QEMU's user-mode network. */
const OUTSIDE = LAB_NETWORK.gateway;
const SETTINGS = "node-agent.env";
const IDENTITY = "identity";

export async function makePayload(
  options: LabOptions,
  fleet: Fleet,
  ports: LabPorts,
  signal: AbortSignal,
): Promise<string> {
  const dir = join(options.dir, "payload");
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const release = join(dir, "release");
  await rm(release, { recursive: true, force: true });
  const built = await run(
    [process.execPath, join(options.root, "apps/node-agent/build.ts"), release],
    {
      cwd: options.root,
      isShown: false,
      signal,
    },
  );
  if (built.code !== 0)
    throw new Error(`the node-agent could not be bundled: ${built.output.trim()}`);
  await copyIfNewer(process.execPath, join(dir, "node"));
  await rm(join(dir, "cloud-hypervisor"), { force: true });
  if (options.cloudHypervisorBin !== undefined)
    await copyHypervisor(options.cloudHypervisorBin, join(dir, "cloud-hypervisor"));
  const secrets = fleet.joinSecrets(LAB_HOST_ID);
  await makeIdentity(
    join(dir, IDENTITY),
    secrets,
    fleet.state.natsUrl.replaceAll("127.0.0.1", OUTSIDE),
  );
  await writeFile(join(dir, SETTINGS), settings(options, ports), { mode: 0o600 });
  return dir;
}

/** The shell command that installs everything, run in the machine. */
export function installCommand(options: LabOptions): string {
  const mount = (tag: string) =>
    `mountpoint -q /mnt/${tag} || mount -t 9p -o trans=virtio,ro,msize=524288,cache=loose ${tag} /mnt/${tag}`;
  const hypervisor =
    options.cloudHypervisorBin === undefined ? "" : `--cloud-hypervisor ${LAB_HYPERVISOR}`;
  const install = [
    "bash /mnt/payload/release/host/install.sh --release /mnt/payload/release --node /mnt/payload/node",
    hypervisor,
    "--data-device /dev/vdb --image /mnt/image",
    `--config /mnt/payload/${SETTINGS} --identity /mnt/payload/${IDENTITY}`,
  ].join(" ");
  return `{ ${mount("payload")}; } && { ${mount("image")}; } && ${install} 2>&1`;
}

/** The same files as `torpor-node-agent join` writes. */
async function makeIdentity(
  dir: string,
  { natsSeedFile, tls }: ReturnType<Fleet["joinSecrets"]>,
  natsUrl: string,
): Promise<void> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const at = (name: string) => `/etc/torpor/identity/${name}`;
  const files = {
    "nats-seed": natsSeedFile,
    "tls.crt": tls.certFile,
    "tls.key": tls.keyFile,
    "ca.crt": tls.caFile,
  };
  for (const [name, from] of Object.entries(files)) await copyFile(from, join(dir, name));
  const values = {
    HOST_ID: LAB_HOST_ID,
    NATS_URL: natsUrl,
    NATS_SEED_FILE: at("nats-seed"),
    TLS_CERT_FILE: at("tls.crt"),
    TLS_KEY_FILE: at("tls.key"),
    TLS_CA_FILE: at("ca.crt"),
  };
  await writeFile(join(dir, "identity.env"), linesOf(values), { mode: 0o600 });
}

function settings(options: LabOptions, ports: LabPorts): string {
  const values: Record<string, string | number> = {
    HEALTH_HOST: "0.0.0.0",
    HEALTH_PORT,
    DATA_PLANE_HOST: "0.0.0.0",
    DATA_PLANE_PORT,
    DATA_PLANE_URL: `https://127.0.0.1:${ports.dataPlane}`,
    DRIVER: options.driver,
    ISOLATION: "namespaces",
    CLOUD_HYPERVISOR_DIR: "/usr/lib/torpor/cloud-hypervisor",
    // On the data disk, which stays: an emulated processor compiles slowly.
    NODE_COMPILE_CACHE: "/var/lib/torpor/.compile-cache",
    CAPACITY_MEMORY_MIB: options.memoryMib - RESERVED_MIB,
    CAPACITY_DISK_MIB: 16_384,
  };
  return linesOf(values);
}

const linesOf = (values: Record<string, string | number>) =>
  Object.entries(values)
    .map(([name, value]) => `${name}=${value}\n`)
    .join("");

async function copyHypervisor(from: string, to: string): Promise<void> {
  await copyProgram(from, to).catch((cause: unknown) => {
    throw new Error(
      `CLOUD_HYPERVISOR_BIN is ${from}, which cannot be read: give a cloud-hypervisor release binary for x86_64`,
      { cause },
    );
  });
}

async function copyProgram(from: string, to: string): Promise<void> {
  await copyFile(from, to);
  await chmod(to, 0o755);
}

/** Node.js is large and rarely changes. */
async function copyIfNewer(from: string, to: string): Promise<void> {
  const [source, target] = await Promise.all([stat(from), stat(to).catch(() => undefined)]);
  if (target?.size === source.size && target.mtimeMs >= source.mtimeMs) return;
  await copyProgram(from, to);
}
