import { fileURLToPath } from "node:url";

/** For CLOUD_HYPERVISOR_BIN. */
export const FAKE_CLOUD_HYPERVISOR_BIN = fileURLToPath(new URL("../bin/cloud-hypervisor", import.meta.url));

export { type Fault, FAULTS_VARIABLE, setFaults } from "./faults.ts";
