import type { VmNetwork } from "../../host/isolation.ts";
import type { Vm } from "../driver.ts";

export type Accelerator = "kvm" | "tcg";

/** Pinned: a snapshot restores only on the machine type that it was taken on. */
export const MACHINE = "pc-q35-7.2";

/**
 * The guest's processor under TCG. It has no AVX and no 57-bit addresses, which are slow to
 * emulate, and it is x86-64-v2, which programs for today's machines need.
 */
export const TCG_CPU = "Nehalem";

/** Limit of TCG's cache, which otherwise takes up to a gigabyte besides the guest's memory. */
export const TRANSLATION_CACHE_MIB = 512;

export interface LaunchOptions {
  accelerator: Accelerator;
  /** Relative to the VM's directory. */
  runDir: string;
  network: VmNetwork;
  /** Port of the host that the user-mode network forwards to the guest's agent. */
  guestPort: number;
  /** Wait for a memory image instead of booting on command. */
  incoming: boolean;
}

/** QEMU's arguments. Every path is relative to the VM's directory. */
export function qemuArguments(vm: Vm, options: LaunchOptions): string[] {
  const cpu = options.accelerator === "kvm" ? "host" : TCG_CPU;
  return [
    ["-name", `torpor-${vm.sandboxId},debug-threads=on`],
    ["-nodefaults", "-no-user-config", "-no-reboot"],
    ["-display", "none"],
    ["-machine", `${MACHINE},usb=off,vmport=off,smm=off`],
    [
      "-accel",
      options.accelerator === "kvm" ? "kvm" : `tcg,thread=multi,tb-size=${TRANSLATION_CACHE_MIB}`,
    ],
    ["-cpu", cpu],
    ["-smp", String(vm.vcpu)],
    ["-m", `${vm.memoryMib}M`],
    ["-kernel", "kernel", "-initrd", "initrd", "-append", vm.kernelCmdline],
    ["-drive", "file=rootfs.ext4,if=none,id=root,format=raw,readonly=on,cache=writeback"],
    ["-device", "virtio-blk-pci,drive=root,serial=root"],
    [
      "-drive",
      "file=disk.raw,if=none,id=disk,format=raw,cache=writeback,discard=unmap,file.locking=on",
    ],
    ["-device", "virtio-blk-pci,drive=disk,serial=disk"],
    ["-netdev", netdev(options)],
    ["-device", "virtio-net-pci,netdev=net0,mac=02:fc:00:00:00:02,romfile="],
    ["-device", "virtio-rng-pci"],
    [
      "-chardev",
      `file,id=serial0,path=${options.runDir}/serial.log,append=on`,
      "-serial",
      "chardev:serial0",
    ],
    ["-qmp", `unix:${options.runDir}/qmp.sock,server=on,wait=off`],
    ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
    ["-S"],
    ...(options.incoming ? [["-incoming", "defer"]] : []),
  ].flat();
}

/**
 * QEMU's own network lets nothing out (`restrict=on`) and one port in. With a tap, the rules of the
 * namespace decide.
 */
function netdev({ network, guestPort }: LaunchOptions): string {
  if (network.kind === "namespace")
    return `tap,id=net0,ifname=${network.tap},script=no,downscript=no`;
  return `user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:${guestPort}-10.0.2.15:7777`;
}
