/**
 * Chooses KVM or TCG. The existence of /dev/kvm proves little: some machines have one that cannot
 * run an ordinary kernel. So the probe boots one.
 */
import { spawn } from "node:child_process";
import { access, constants } from "node:fs/promises";
import { join } from "node:path";
import { readJson, writeDurably } from "../../host/files.ts";
import { bootId } from "@torpor/service";
import type { Image } from "../../images/images.ts";
import { type Accelerator, MACHINE } from "./command-line.ts";
import { qemuVersion } from "./version.ts";

export interface Probe {
  accelerator: Accelerator;
  reason: string;
}

const BOOT_LIMIT_MS = 10_000;
/** The kernel's last line before user space. */
const BOOTED = "Run /init as init process";

/** Probes once per boot of the host and version of QEMU, and keeps the result in `cacheDir`. */
export async function probeAccelerator(
  bin: string,
  image: Image | undefined,
  cacheDir: string,
): Promise<Probe> {
  const isUsable = await access("/dev/kvm", constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
  if (!isUsable) return { accelerator: "tcg", reason: "there is no /dev/kvm that may be used" };
  if (image === undefined)
    return { accelerator: "tcg", reason: "there is no image yet to try /dev/kvm with" };
  const file = join(cacheDir, ".accelerator.json");
  const key = `${bootId()} ${await qemuVersion(bin)} ${image.sha256}`;
  const known = await readJson<Probe & { key: string }>(file).catch(() => undefined);
  if (known?.key === key) return known;
  const booted = await bootsKernel(bin, image);
  const probe: Probe = booted
    ? { accelerator: "kvm", reason: "KVM boots the image's kernel" }
    : {
        accelerator: "tcg",
        reason: `/dev/kvm is there, but does not boot the image's kernel within ${BOOT_LIMIT_MS / 1000} s`,
      };
  await writeDurably(file, JSON.stringify({ key, ...probe }), 0o644).catch(() => {});
  return probe;
}

async function bootsKernel(bin: string, image: Image): Promise<boolean> {
  const args = [
    ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"],
    ["-machine", MACHINE, "-accel", "kvm", "-cpu", "host", "-m", "256M"],
    [
      "-kernel",
      join(image.dir, "kernel"),
      "-initrd",
      join(image.dir, "initrd"),
      "-append",
      "console=ttyS0 panic=-1 loglevel=7",
    ],
    ["-serial", "stdio"],
  ].flat();
  const child = spawn(bin, args, { stdio: ["ignore", "pipe", "ignore"] });
  try {
    return await new Promise<boolean>((resolve) => {
      setTimeout(() => resolve(false), BOOT_LIMIT_MS).unref();
      child.once("error", () => resolve(false));
      child.once("exit", () => resolve(false));
      let text = "";
      child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
        text = (text + chunk).slice(-65_536);
        if (text.includes(BOOTED)) resolve(true);
      });
    });
  } finally {
    child.kill("SIGKILL");
  }
}
