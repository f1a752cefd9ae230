import type { Logger } from "@torpor/service";
import type { Config } from "../config.ts";
import type { Isolation } from "../host/isolation.ts";
import { listImages } from "../images.ts";
import type { Driver } from "./driver.ts";
import { probeAccelerator } from "./qemu/accelerator.ts";
import { QemuDriver } from "./qemu/qemu.ts";
import { SimulatedDriver } from "./simulated/simulated.ts";

export async function chooseDriver(config: Config, isolation: Isolation, log: Pick<Logger, "info">): Promise<Driver> {
  if (config.DRIVER === "simulated") return new SimulatedDriver();
  const [image] = await listImages(config.IMAGES_DIR);
  const { accelerator, reason } =
    config.QEMU_ACCELERATOR === "auto"
      ? await probeAccelerator(config.QEMU_BIN, image, config.IMAGES_DIR)
      : { accelerator: config.QEMU_ACCELERATOR, reason: "QEMU_ACCELERATOR says so" };
  log.info({ accelerator, reason }, "QEMU's accelerator");
  return new QemuDriver({ bin: config.QEMU_BIN, accelerator, isolation });
}
