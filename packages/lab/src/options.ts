/** The directory and options of the lab machine. */
import { join } from "node:path";

export const LAB_HOST_ID = "lab-1";

/** Path of Cloud Hypervisor inside the lab machine. */
export const LAB_HYPERVISOR = "/mnt/payload/cloud-hypervisor";

export interface LabOptions {
  /** Root of the checkout. */
  root: string;
  /** Directory of the machine's disks; kept from one `up` to the next. */
  dir: string;
  /** The directory of one sandbox image. */
  imageDir: string;
  /** Driver of the node-agent in the machine. */
  driver: string;
  /** Required for the driver `cloud-hypervisor`. */
  cloudHypervisorBin: string | undefined;
  qemuBin: string;
  memoryMib: number;
}

export const labDir = (root: string) => join(root, ".torpor/lab");
