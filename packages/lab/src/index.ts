export { labDown, labHealth, labUp, requireHypervisor, runningLab } from "./lab.ts";
export { LAB_HOST_ID, LAB_HYPERVISOR, labDir, type LabOptions } from "./options.ts";
export { LAB_NETWORK, type LabRecord } from "./machine.ts";
export { execInLab, labCommand, shellInLab, statusInLab } from "./ssh.ts";
