/** Processor, kernel and devices. */
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { LANDLOCK_KERNEL } from "../drivers/cloud-hypervisor/landlock.ts";
import { isAtLeast } from "../host/kernel-release.ts";
import {
  advised,
  type Check,
  type Finding,
  type CheckedMachine,
  missing,
  missingForKvm,
  ok,
} from "./finding.ts";

const MINIMUM_KERNEL = [5, 13] as const;
const CONTROLLERS = ["cpu", "memory", "pids"];
/** Clock sources that a guest's clock can be built on. */
const GOOD_CLOCKS = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page"];

export const KERNEL_CHECKS: Check[] = [
  { name: "virtualization", look: virtualization },
  { name: "/dev/kvm", look: kvmDevice },
  { name: "/dev/kvm for the VMM user", look: kvmForVmmUser },
  { name: "kernel", look: kernelVersion },
  { name: "landlock", look: landlock },
  { name: "cgroup v2", look: cgroups },
  { name: "/dev/net/tun", look: tunDevice },
  { name: "clock source", look: clockSource },
  { name: "net.ipv4.ip_forward", look: forwarding },
];

async function virtualization(machine: CheckedMachine): Promise<Finding> {
  const flags =
    /^flags\s*:(.*)$/m.exec(await text(machine, "/proc/cpuinfo"))?.[1]?.split(" ") ?? [];
  const found = ["svm", "vmx"].find((flag) => flags.includes(flag));
  if (found !== undefined) return ok(found === "svm" ? "AMD SVM" : "Intel VMX");
  const remedy =
    "enable virtualization (SVM, VT-x) in the firmware; on a rented virtual machine, rent one with nested virtualization, or a bare-metal one";
  return missingForKvm(machine, "the processor shows neither svm nor vmx", remedy);
}

async function kvmDevice(machine: CheckedMachine): Promise<Finding> {
  const device = await stat(join(machine.root, "/dev/kvm")).catch(() => undefined);
  if (device?.isCharacterDevice() === true) return ok("there");
  return missingForKvm(
    machine,
    "not there",
    "modprobe kvm_amd or kvm_intel; `dmesg | grep -i kvm` says why it refuses",
  );
}

async function kvmForVmmUser(machine: CheckedMachine): Promise<Finding> {
  const device = await stat(join(machine.root, "/dev/kvm")).catch(() => undefined);
  if (device === undefined) return missingForKvm(machine, "there is no /dev/kvm", "see /dev/kvm");
  const uid = String(machine.settings.vmmUid);
  const tried = [
    `--reuid=${uid}`,
    `--regid=${uid}`,
    `--groups=${device.gid}`,
    "--",
    "sh",
    "-c",
    ": <> /dev/kvm",
  ];
  const { code, output } = await machine.run("setpriv", tried);
  if (code === 0) return ok(`uid ${uid} can open it`);
  const remedy =
    "chgrp kvm /dev/kvm && chmod 660 /dev/kvm (udev's own rule does it where the group kvm exists); run this check as root";
  return missingForKvm(
    machine,
    `uid ${uid} cannot open it: ${output.trim() || `code ${code}`}`,
    remedy,
  );
}

async function kernelVersion(machine: CheckedMachine): Promise<Finding> {
  const release = (await text(machine, "/proc/sys/kernel/osrelease")).trim();
  if (isAtLeast(release, MINIMUM_KERNEL)) return ok(release);
  return missing(
    release || "unknown",
    `boot a Linux of ${MINIMUM_KERNEL.join(".")} or newer; Debian 12 has 6.1`,
  );
}

async function landlock(machine: CheckedMachine): Promise<Finding> {
  const release = (await text(machine, "/proc/sys/kernel/osrelease")).trim();
  const isOn = (await text(machine, "/sys/kernel/security/lsm"))
    .trim()
    .split(",")
    .includes("landlock");
  if (!isOn)
    return advised(
      "not enabled",
      'add landlock to the kernel\'s "lsm=" option, and mount securityfs at /sys/kernel/security',
    );
  if (isAtLeast(release, LANDLOCK_KERNEL)) return ok("enabled");
  return advised(
    `enabled, but of kernel ${release}`,
    `Cloud Hypervisor asks for that of ${LANDLOCK_KERNEL.join(".")}: Debian 12's backports have one (linux-image-amd64)`,
  );
}

async function cgroups(machine: CheckedMachine): Promise<Finding> {
  const controllers = (await text(machine, "/sys/fs/cgroup/cgroup.controllers")).trim().split(" ");
  const lacking = CONTROLLERS.filter((name) => !controllers.includes(name));
  if (lacking.length === 0) return ok(controllers.join(" "));
  if (lacking.length === CONTROLLERS.length)
    return missing(
      "not mounted at /sys/fs/cgroup",
      "boot with systemd.unified_cgroup_hierarchy=1 (Debian's default) and without cgroup_no_v1 or cgroup_disable",
    );
  return missing(
    `without ${lacking.join(", ")}`,
    `remove cgroup_disable=${lacking.join(",")} from the kernel's options, or boot a kernel that has them`,
  );
}

async function tunDevice(machine: CheckedMachine): Promise<Finding> {
  const device = await stat(join(machine.root, "/dev/net/tun")).catch(() => undefined);
  return device?.isCharacterDevice() === true
    ? ok("there")
    : missing("not there", "modprobe tun (install.sh does it at each boot)");
}

async function clockSource(machine: CheckedMachine): Promise<Finding> {
  const found = (
    await text(machine, "/sys/devices/system/clocksource/clocksource0/current_clocksource")
  ).trim();
  if (GOOD_CLOCKS.includes(found)) return ok(found);
  return advised(
    found || "unknown",
    `guests are slow and drift on it: find out why the kernel gave up the TSC (dmesg | grep -i tsc); good are ${GOOD_CLOCKS.join(", ")}`,
  );
}

async function forwarding(machine: CheckedMachine): Promise<Finding> {
  const value = (await text(machine, "/proc/sys/net/ipv4/ip_forward")).trim();
  return value === "1"
    ? ok("1")
    : missing(
        value || "unknown",
        "sysctl net.ipv4.ip_forward=1 (install.sh keeps it in /etc/sysctl.d/90-torpor.conf)",
      );
}

/** A file that cannot be read counts as empty: the check then reports what is missing. */
async function text(machine: CheckedMachine, path: string): Promise<string> {
  return await readFile(join(machine.root, path), "utf8").catch(() => "");
}
