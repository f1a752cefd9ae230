/** Drivers that run on every machine, for tests of what is the same for all. */
import { FAKE_CLOUD_HYPERVISOR_BIN } from "@torpor/programs";
import {
  CloudHypervisorDriver,
  type VmmLimits,
} from "../../src/drivers/cloud-hypervisor/cloud-hypervisor.ts";
import type { Driver } from "../../src/drivers/driver.ts";
import { SimulatedDriver } from "../../src/drivers/simulated/simulated.ts";
import { plainIsolation } from "../../src/host/isolation.ts";

export const DRIVER_NAMES = ["simulated", "cloud-hypervisor"] as const;
export type DriverName = (typeof DRIVER_NAMES)[number];

export function driverNamed(name: DriverName): Driver {
  return name === "simulated" ? new SimulatedDriver() : fakeCloudHypervisor();
}

/** The driver of Cloud Hypervisor, on the fake. */
export function fakeCloudHypervisor(limits: Partial<VmmLimits> = {}): CloudHypervisorDriver {
  const binary = { path: FAKE_CLOUD_HYPERVISOR_BIN, version: "53.0.0" };
  return new CloudHypervisorDriver({
    binaries: { current: binary, all: [binary] },
    host: { cpu: "fake-1-1-1-0x1+0", kernel: "6.1.0", network: "user" },
    isolation: plainIsolation(undefined),
    landlock: false,
    limits,
  });
}
