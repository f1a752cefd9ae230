import type { Logger } from "@torpor/service";
import type { Config } from "../config.ts";
import type { Isolation } from "../host/isolation.ts";
import { isOwnNetwork } from "../host/isolation/uplink.ts";
import { listImages } from "../images.ts";
import type { Driver } from "./driver.ts";
import { probeAccelerator } from "./qemu/accelerator.ts";
import { QemuDriver } from "./qemu/qemu.ts";
import { SimulatedDriver } from "./simulated/simulated.ts";

export async function chooseDriver(config: Config, isolation: Isolation, log: Pick<Logger, "info">): Promise<Driver> {
  if (config.DRIVER === "simulated") return new SimulatedDriver();
  if (isolation.networkKind === "namespace" && !(await isOwnNetwork(config.UPLINK_NETNS)))
    throw new Error(
      `QEMU's guests are reached by TCP, which ends in UPLINK_NETNS: start the agent inside of it (ip netns exec ${config.UPLINK_NETNS} …), or set ISOLATION=plain`,
    );
  const [image] = await listImages(config.IMAGES_DIR);
  const { accelerator, reason } =
    config.QEMU_ACCELERATOR === "auto"
      ? await probeAccelerator(config.QEMU_BIN, image, config.IMAGES_DIR)
      : { accelerator: config.QEMU_ACCELERATOR, reason: "QEMU_ACCELERATOR says so" };
  log.info({ accelerator, reason }, "QEMU's accelerator");
  return new QemuDriver({ bin: config.QEMU_BIN, accelerator, isolation });
}
