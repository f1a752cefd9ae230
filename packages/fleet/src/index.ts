export { collectFleet, Fleet, removeFleet } from "./fleet.ts";
export {
  CONTROL_USER,
  findNatsServer,
  type NatsCluster,
  natsConfiguration,
  type NatsTls,
  type NatsUser,
  natsUserOf,
} from "./nats.ts";
export { FLEET_SETTINGS, type FleetOptions, hostIdAt, planServices, type Ports } from "./plan.ts";
export { databaseUrl, preparePostgres } from "./postgres.ts";
export { type Health, startProcess, stopProcess, waitHealthy } from "./process.ts";
export type { Component, FleetState, Role } from "./state.ts";
export { collectLeftovers, listVmProcesses, type VmProcess } from "./vms.ts";
export { authorityFiles, makeCertificates, tlsFilesOf } from "./certificates.ts";
