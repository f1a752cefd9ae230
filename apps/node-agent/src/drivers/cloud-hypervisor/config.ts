/**
 * The configuration of a VM, as Cloud Hypervisor gets it.
 *
 * CF1  Every path is relative to the VM's directory and the same in every run, because a snapshot
 *      holds the paths.
 * CF2  Every device has an id, by which its state is found in a snapshot.
 * CF3  The configuration that the VMM reports is compared with the requested one, because the VMM
 *      silently drops options that its version does not know.
 */
import { GUEST_AGENT_PORT } from "@torpor/contracts";
import type { GuestAddress } from "../../guest-connection.ts";
import type { VmNetwork } from "../../host/isolation.ts";
import type { Vm } from "../driver.ts";
import { INBOX, IO, OUTBOX, SERIAL_LOG, VSOCK_SOCKET } from "./directories.ts";

export interface VmConfig {
  cpus: { boot_vcpus: number; max_vcpus: number; nested: boolean };
  memory: { size: number; shared: boolean; thp: boolean };
  payload: { kernel: string; initramfs: string; cmdline: string };
  disks: { id: string; path: string; image_type: "Raw"; serial: string; readonly: boolean }[];
  net?: { id: string; tap: string; mac: string }[];
  vsock: { id: string; cid: number; socket: string };
  rng: { id: string; src: string };
  balloon: { id: string; size: number; deflate_on_oom: boolean; free_page_reporting: boolean };
  serial: { mode: "File"; file: string };
  console: { mode: "Off" };
  pvpanic: boolean;
  landlock_enable: boolean;
  landlock_rules?: { path: string; access: "r" | "rw" }[];
}

/** The same in every VM: each VM has its own network. */
const GUEST_MAC = "02:fc:00:00:00:02";
const GUEST_CID = 3;
/**
 * The directory in which Cloud Hypervisor reads a tap's flags. The path of the rule has to exist in
 * every namespace, and the path of a single tap does not.
 */
const VIRTUAL_INTERFACES = "/sys/devices/virtual/net";

/** Address of the guest's agent, with a path relative to the VM's directory, as it is recorded. */
export const GUEST: Extract<GuestAddress, { kind: "vsock" }> = {
  kind: "vsock",
  socketPath: VSOCK_SOCKET,
  port: GUEST_AGENT_PORT,
};

export const memoryBytes = (vm: Vm): number => vm.memoryMib * 1024 ** 2;

export function vmConfig(vm: Vm, options: { network: VmNetwork; landlock: boolean }): VmConfig {
  const { network } = options;
  const tap = network.kind === "namespace" ? network.tap : undefined;
  return {
    // Nested virtualization would expose KVM's least tested code to guests, and put its state into
    // snapshots.
    cpus: { boot_vcpus: vm.vcpu, max_vcpus: vm.vcpu, nested: false },
    // Only shared memory is written without its holes.
    memory: { size: memoryBytes(vm), shared: true, thp: true },
    payload: { kernel: "kernel", initramfs: "initrd", cmdline: withClock(vm.kernelCmdline) },
    // The guest's initramfs knows the disks by their order. The image type is explicit, so that a
    // guest cannot make its disk look like one with a backing file.
    disks: [
      { id: "root", path: "rootfs.ext4", image_type: "Raw", serial: "root", readonly: true },
      { id: "disk", path: "disk.raw", image_type: "Raw", serial: "disk", readonly: false },
    ],
    ...(tap === undefined ? {} : { net: [{ id: "net0", tap, mac: GUEST_MAC }] }),
    vsock: { id: "vsock0", cid: GUEST_CID, socket: VSOCK_SOCKET },
    rng: { id: "rng0", src: "/dev/urandom" },
    // Gives free pages back to the host, which makes snapshots smaller.
    balloon: { id: "balloon0", size: 0, deflate_on_oom: true, free_page_reporting: true },
    serial: { mode: "File", file: SERIAL_LOG },
    console: { mode: "Off" },
    pvpanic: true,
    landlock_enable: options.landlock,
    ...(options.landlock ? { landlock_rules: landlockRules(tap !== undefined) } : {}),
  };
}

/**
 * Landlock rules for the paths that the configuration does not name; Cloud Hypervisor allows the
 * others itself.
 */
function landlockRules(hasTap: boolean): NonNullable<VmConfig["landlock_rules"]> {
  return [
    { path: IO, access: "rw" },
    { path: OUTBOX, access: "rw" },
    { path: INBOX, access: "r" },
    ...(hasTap ? [{ path: VIRTUAL_INTERFACES, access: "r" } as const] : []),
  ];
}

/** Only this clock advances by the duration of a pause. */
function withClock(cmdline: string): string {
  return /(^|\s)clocksource=/.test(cmdline) ? cmdline : `${cmdline} clocksource=kvm-clock`.trim();
}

/**
 * Differences between `asked` and `taken`, as `path: asked X, has Y`. Fields that are missing in
 * `asked` are ignored.
 */
export function differences(asked: unknown, taken: unknown, path = ""): string[] {
  if (typeof asked !== "object" || asked === null)
    return asked === taken
      ? []
      : [`${path}: asked ${JSON.stringify(asked)}, has ${JSON.stringify(taken) ?? "nothing"}`];
  if (
    typeof taken !== "object" ||
    taken === null ||
    (Array.isArray(asked) && (taken as unknown[]).length !== asked.length)
  )
    return [`${path}: asked ${JSON.stringify(asked)}, has ${JSON.stringify(taken) ?? "nothing"}`];
  const has = taken as Record<string, unknown>;
  return Object.entries(asked).flatMap(([name, value]) =>
    differences(value, has[name], path === "" ? name : `${path}.${name}`),
  );
}
