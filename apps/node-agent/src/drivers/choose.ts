import type { Logger } from "@torpor/service";
import type { Config } from "../config.ts";
import { plainIsolation } from "../host/isolation.ts";
import { listImages } from "../images.ts";
import { CloudHypervisorDriver } from "./cloud-hypervisor/cloud-hypervisor.ts";
import { hostFacts } from "./cloud-hypervisor/fingerprint.ts";
import { landlockIsOn } from "./cloud-hypervisor/landlock.ts";
import { findBinaries } from "./cloud-hypervisor/versions.ts";
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
  if (config.DRIVER === "cloud-hypervisor") return await cloudHypervisor(config, log);
  const [image] = await listImages(config.IMAGES_DIR);
  const { accelerator, reason } =
    config.QEMU_ACCELERATOR === "auto"
      ? await probeAccelerator(config.QEMU_BIN, image, config.IMAGES_DIR)
      : { accelerator: config.QEMU_ACCELERATOR, reason: "QEMU_ACCELERATOR says so" };
  log.info({ accelerator, reason }, "QEMU's accelerator");
  return new QemuDriver({ bin: config.QEMU_BIN, accelerator, isolation: plainIsolation(vmmUid(config)) });
}

async function cloudHypervisor(config: Config, log: Pick<Logger, "info">): Promise<Driver> {
  const binaries = await findBinaries({ bin: config.CLOUD_HYPERVISOR_BIN, dir: config.CLOUD_HYPERVISOR_DIR });
  const isolation = plainIsolation(vmmUid(config));
  const landlock = config.CLOUD_HYPERVISOR_LANDLOCK === "auto" ? await landlockIsOn() : config.CLOUD_HYPERVISOR_LANDLOCK === "on";
  log.info({ versions: binaries.all.map(({ version }) => version), landlock }, "Cloud Hypervisor");
  return new CloudHypervisorDriver({ binaries, host: await hostFacts(isolation.networkKind), isolation, landlock });
}
