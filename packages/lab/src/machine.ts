/**
 * The lab machine: a Debian under QEMU's TCG whose emulated processor has SVM, so that it has its
 * own /dev/kvm on any machine.
 *
 * - Its root disk is new at each start, as infra/lab/build.sh made it: every `up` installs a host
 *   from nothing.
 * - The data of the host, /var/lib/torpor, is on a second disk that stays: images, golden
 *   snapshots, sandboxes.
 * - Everything that is installed on it is in directories of this machine, which the lab machine
 *   cannot write to.
 */
import { readFile, realpath, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Component } from "@torpor/fleet";
import { run } from "@torpor/service";
import { LAB_HOST_ID, type LabOptions } from "./options.ts";

/** Ports inside the machine. */
export const HEALTH_PORT = 9400;
export const DATA_PLANE_PORT = 9401;
const SSH_PORT = 22;
/**
 * Not QEMU's own 10.0.2.0/24, which the guests use (docs/operate/networking.md): they could not
 * reach a name server in it. infra/lab has the addresses of this network.
 */
export const LAB_NETWORK = { cidr: "192.168.76.0/24", gateway: "192.168.76.2" };
/** Sparse: uses only the space that was written. */
const DATA_DISK_BYTES = 24 * 1024 ** 3;

const KERNEL_OPTIONS = [
  "console=ttyS0 quiet loglevel=3 net.ifnames=0 mitigations=off systemd.show_status=0",
  // The emulated TSC is this machine's, and steady; otherwise each read of the clock leaves the
  // guest.
  "tsc=reliable",
  // These serve nested hypervisors, which do not exist here: without them, less of QEMU's emulation
  // is used.
  "kvm_amd.vls=0 kvm_amd.vgif=0",
  // Reboots after a panic, as a host in a rack would.
  "panic=5",
];

export interface LabPorts {
  ssh: number;
  health: number;
  dataPlane: number;
}

/** What later commands need to know about a running machine. */
export interface LabRecord {
  ports: LabPorts;
  /** Holds kernel, initrd, root.ext4, id_ed25519 and known_hosts. */
  machineDir: string;
  driver: string;
}

const recordFile = (dir: string) => join(dir, "machine.json");

export async function readRecord(dir: string): Promise<LabRecord | undefined> {
  const text = await readFile(recordFile(dir), "utf8").catch(() => undefined);
  return text === undefined ? undefined : (JSON.parse(text) as LabRecord);
}

export async function writeRecord(dir: string, record: LabRecord): Promise<void> {
  await writeFile(recordFile(dir), JSON.stringify(record, undefined, 2), { mode: 0o600 });
}

/** Builds the disk if there is none yet, and returns its directory. */
export async function buildMachine(
  { root, dir }: LabOptions,
  signal: AbortSignal,
): Promise<string> {
  const script = join(root, "infra/lab/build.sh");
  const { code } = await run([script, join(dir, "cache")], { cwd: root, isShown: true, signal });
  if (code !== 0) throw new Error("the lab machine could not be built: see the message above");
  return await realpath(join(dir, "cache/machine"));
}

export async function makeDataDisk(dir: string): Promise<string> {
  const file = join(dir, "data.raw");
  // Extends a new file, and keeps one of this size as it is.
  await writeFile(file, "", { flag: "a", mode: 0o600 });
  await truncate(file, DATA_DISK_BYTES);
  return file;
}

/**
 * The emulator process, as a component of the fleet: ended by `./torpor down`, shown by `./torpor
 * status`.
 */
export function machineComponent(
  options: LabOptions,
  record: LabRecord,
  files: { data: string; payload: string; log: string },
): Component {
  const { ports, machineDir } = record;
  const forwards = [
    [ports.ssh, SSH_PORT],
    [ports.health, HEALTH_PORT],
    [ports.dataPlane, DATA_PLANE_PORT],
  ].map(([outside, inside]) => `hostfwd=tcp:127.0.0.1:${outside}-:${inside}`);
  const shared = (path: string, tag: string) =>
    `local,path=${comma(path)},mount_tag=${tag},security_model=none,readonly=on`;
  const disk = (path: string) => `format=raw,if=virtio,file=${comma(path)}`;
  const args = [
    ["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"],
    // One processor: a kernel patches its own code while it runs (whenever a virtual machine starts
    // or ends). With two, QEMU 7.2 continues in replaced code: "Oops: int3" was observed.
    [
      "-machine",
      "q35",
      "-accel",
      "tcg",
      "-cpu",
      "EPYC,+svm,+npt",
      "-smp",
      "1",
      "-m",
      String(options.memoryMib),
    ],
    ["-kernel", join(machineDir, "kernel"), "-initrd", join(machineDir, "initrd")],
    ["-append", KERNEL_OPTIONS.join(" ")],
    ["-drive", `${disk(join(machineDir, "root.ext4"))},snapshot=on`],
    ["-drive", `${disk(files.data)},discard=unmap,detect-zeroes=unmap`],
    [
      "-netdev",
      [`user,id=net0,net=${LAB_NETWORK.cidr},host=${LAB_NETWORK.gateway}`, ...forwards].join(","),
    ],
    ["-device", "virtio-net-pci,netdev=net0", "-device", "virtio-rng-pci"],
    ["-virtfs", shared(files.payload, "payload"), "-virtfs", shared(options.imageDir, "image")],
  ].flat();
  return {
    name: LAB_HOST_ID,
    role: "lab",
    address: `127.0.0.1:${ports.health}`,
    healthUrl: `http://127.0.0.1:${ports.health}/health`,
    command: options.qemuBin,
    args,
    env: { PATH: process.env["PATH"] ?? "", TMPDIR: process.env["TMPDIR"] ?? "/tmp" },
    log: files.log,
  };
}

/** QEMU's options need a comma doubled. */
function comma(path: string): string {
  return path.replaceAll(",", ",,");
}
