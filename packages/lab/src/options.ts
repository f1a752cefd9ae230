/** Where the lab machine lives, and what may be set about it. */
import { join } from "node:path";

export const LAB_HOST_ID = "lab-1";

/** Cloud Hypervisor, as the lab machine sees what was carried into it. */
export const LAB_HYPERVISOR = "/mnt/payload/cloud-hypervisor";

export interface LabOptions {
  /** Root of the checkout. */
  root: string;
  /** Holds the machine's disks; kept from one `up` to the next. */
  dir: string;
  /** The directory of one sandbox image. */
  imageDir: string;
  /** Of the node-agent in the machine. */
  driver: string;
  /** Needed for the driver `cloud-hypervisor`. */
  cloudHypervisorBin: string | undefined;
  qemuBin: string;
  memoryMib: number;
}

export const labDir = (root: string) => join(root, ".torpor/lab");
