import type { Logger } from "@torpor/service";
import type { Config } from "../config.ts";
import { plainIsolation } from "../host/isolation.ts";
import { listImages } from "../images.ts";
import type { Driver } from "./driver.ts";
import { probeAccelerator } from "./qemu/accelerator.ts";
import { QemuDriver } from "./qemu/qemu.ts";
import { SimulatedDriver } from "./simulated/simulated.ts";

/** VMMs get a user of their own where the agent is root. */
export function vmmUid(config: Config): number | undefined {
  return process.getuid?.() === 0 ? config.VMM_UID : undefined;
}

export async function chooseDriver(config: Config, log: Pick<Logger, "info">): Promise<Driver> {
  if (config.DRIVER === "simulated") return new SimulatedDriver();
  const [image] = await listImages(config.IMAGES_DIR);
  const { accelerator, reason } =
    config.QEMU_ACCELERATOR === "auto"
      ? await probeAccelerator(config.QEMU_BIN, image, config.IMAGES_DIR)
      : { accelerator: config.QEMU_ACCELERATOR, reason: "QEMU_ACCELERATOR says so" };
  log.info({ accelerator, reason }, "QEMU's accelerator");
  return new QemuDriver({ bin: config.QEMU_BIN, accelerator, isolation: plainIsolation(vmmUid(config)) });
}
