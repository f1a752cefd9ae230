/**
 * The driver suite's target that needs no installed VMM: Cloud Hypervisor's driver on the fake.
 * This target is not in targets.ts, which is copied to machines without the fake.
 */
import { join } from "node:path";
import type { VmmLimits } from "../../src/drivers/cloud-hypervisor/cloud-hypervisor.ts";
import { listImages } from "../../src/images/images.ts";
import { fakeCloudHypervisor } from "../support/drivers.ts";
import { prepareImages } from "../support/test-host.ts";
import type { DriverTarget } from "./target.ts";

/** Creates the target below `dir`, with an image and its golden snapshot. */
export async function makeFakeTarget(
  dir: string,
  limits?: Partial<VmmLimits>,
): Promise<DriverTarget> {
  await prepareImages(join(dir, "images"), fakeCloudHypervisor());
  const [image] = await listImages(join(dir, "images"));
  if (image === undefined) throw new Error("the image was not made");
  return {
    name: "fake",
    makeDriver: async () => fakeCloudHypervisor(limits),
    image,
    uid: undefined,
    dir: join(dir, "host/vm"),
    bootLimitMs: 60_000,
    controlSocket: "api.sock",
    close: async () => {},
  };
}
