/** The drivers that the suite runs against, set up as the agent does it. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { createLogger } from "@torpor/service";
import { configFrom } from "../../src/config.ts";
import { chooseDriver } from "../../src/drivers/choose.ts";
import { chooseIsolation } from "../../src/host/isolation/choose.ts";
import { listImages } from "../../src/images/images.ts";
import { ensureGolden } from "../../src/images/golden.ts";
import { httpGuest } from "../../src/lifecycle/guest.ts";
import type { DriverTarget } from "./target.ts";

export interface TargetOptions {
  name: string;
  driver: "qemu" | "cloud-hypervisor";
  imagesDir: string;
  /** Directory of the VMs, on the file system of the images. */
  dir: string;
  env?: Record<string, string>;
  bootLimitMs?: number;
}

const CONTROL_SOCKET = { qemu: "qmp.sock", "cloud-hypervisor": "api.sock" };
const BOOT_LIMIT_MS = 240_000;

/** Throws, and reports what to do, if the VMM or the image is missing. */
export async function makeTarget(options: TargetOptions): Promise<DriverTarget> {
  const { imagesDir, dir, driver: kind } = options;
  await mkdir(dir, { recursive: true, mode: 0o711 });
  const config = configFrom({
    ...process.env,
    DRIVER: kind,
    IMAGES_DIR: imagesDir,
    DATA_DIR: dir,
    HOST_ID: "conformance",
    ...options.env,
  });
  const log = createLogger({ name: "conformance", level: "silent" });
  const { isolation, dismantle } = await chooseIsolation(config, log);
  const makeDriver = () => chooseDriver(config, isolation, log);
  const [image] = await listImages(imagesDir);
  if (image === undefined)
    throw new Error(`there is no image in ${imagesDir}: ./torpor image builds it`);
  const driver = await makeDriver();
  const { uid } = isolation;
  await ensureGolden(image, {
    driver,
    guest: httpGuest(driver),
    uid,
    scratchDir: join(imagesDir, ".scratch"),
    say: () => {},
  });
  const bootLimitMs = options.bootLimitMs ?? BOOT_LIMIT_MS;
  const controlSocket = CONTROL_SOCKET[kind];
  return {
    name: options.name,
    makeDriver,
    image,
    uid,
    dir: join(dir, "vm"),
    bootLimitMs,
    controlSocket,
    close: dismantle,
  };
}
