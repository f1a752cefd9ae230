export { labDown, labHealth, labUp, requireHypervisor, runningLab } from "./lab.ts";
export { LAB_HOST_ID, labDir, type LabOptions } from "./options.ts";
export { execInLab, shellInLab } from "./ssh.ts";
