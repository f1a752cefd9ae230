export type { ApiAnswer } from "./api-answer.ts";
export { tempDir, until } from "./basics.ts";
export { startS3, type S3Server } from "./s3.ts";
export { startNats, startNatsCluster, type NatsServer, type TestNatsCluster } from "./nats.ts";
export { keepsNoStatements, startPgBouncer, type PgBouncer } from "./pgbouncer.ts";
export { type Databases, type PostgresServer, sharedPostgres, startPostgres } from "./postgres.ts";
export { makeSimulatedImage, SIMULATED_TEMPLATE } from "./simulated-image.ts";
export { silentLog } from "./log.ts";
export { ROOT } from "./root.ts";
export { startTestFleet, TestFleet, undefinedIfRefused, type ApiRequest } from "./fleet.ts";
export {
  type GuestAccess,
  python,
  readGuestFile,
  runCode,
  shell,
  writeGuestFile,
} from "./guest.ts";
export { insist, insistOnDelete, isFinal, transition } from "./insist.ts";
export { ApiRefusal, type Client } from "@torpor/client";
export type { CreateSandboxBody, EventResource, SandboxResource } from "@torpor/contracts";
export { startVmFleet } from "./real-vms.ts";
export { openTestDatabase, type TestDatabase } from "./database.ts";
export { simulatedVcpusRun, VmmAuditor, type Overlap } from "./vmm-auditor.ts";
export {
  aHeartbeat,
  aHost,
  anObservation,
  applyEffects,
  aRequester,
  aSandbox,
  leasesCouldBeRenewed,
  makeSandbox,
} from "./rows.ts";
export { moveSandbox, type MoveResult } from "./moves.ts";
export { relay, type Relay } from "./relay.ts";
export { type HostNetwork, hostNetworkProblem, makeHostNetwork } from "./host-network.ts";
export { failureDirectory } from "./evidence.ts";
export { recordLeftover } from "./test-run/leftovers.ts";
export { draws, TEST_SEED } from "./seed.ts";
