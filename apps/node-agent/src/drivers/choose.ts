import type { Logger } from "@torpor/service";
import type { NodeAgentConfig } from "../config.ts";
import type { Isolation } from "../host/isolation.ts";
import { isOwnNetwork } from "../host/isolation/uplink.ts";
import { listImages } from "../images/images.ts";
import { CloudHypervisorDriver } from "./cloud-hypervisor/cloud-hypervisor.ts";
import { hostFacts } from "./cloud-hypervisor/fingerprint.ts";
import { landlockIsOn } from "./cloud-hypervisor/landlock.ts";
import { findBinaries } from "./cloud-hypervisor/versions.ts";
import type { Driver } from "./driver.ts";
import { probeAccelerator } from "./qemu/accelerator.ts";
import { QemuDriver } from "./qemu/qemu.ts";
import { SimulatedDriver } from "./simulated/simulated.ts";

export async function chooseDriver(
  config: NodeAgentConfig,
  isolation: Isolation,
  log: Pick<Logger, "info">,
): Promise<Driver> {
  if (config.DRIVER === "simulated") return new SimulatedDriver();
  if (config.DRIVER === "cloud-hypervisor") return await cloudHypervisor(config, isolation, log);
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

async function cloudHypervisor(
  config: NodeAgentConfig,
  isolation: Isolation,
  log: Pick<Logger, "info">,
): Promise<Driver> {
  const binaries = await findBinaries({
    bin: config.CLOUD_HYPERVISOR_BIN,
    dir: config.CLOUD_HYPERVISOR_DIR,
  });
  const landlock =
    config.CLOUD_HYPERVISOR_LANDLOCK === "auto"
      ? await landlockIsOn()
      : config.CLOUD_HYPERVISOR_LANDLOCK === "on";
  log.info({ versions: binaries.all.map(({ version }) => version), landlock }, "Cloud Hypervisor");
  return new CloudHypervisorDriver({
    binaries,
    host: await hostFacts(isolation.networkKind),
    isolation,
    landlock,
  });
}
