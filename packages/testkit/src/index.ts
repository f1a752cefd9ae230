export { freePort, tempDir, until } from "./basics.ts";
export { startNats, type NatsServer } from "./nats.ts";
export { startPostgres, type PostgresServer } from "./postgres.ts";
export { makeSimulatedImage, SIMULATED_TEMPLATE } from "./simulated-image.ts";
export { silentLog } from "./log.ts";
export { ROOT } from "./root.ts";
export { startTestFleet, TestFleet, type ApiAnswer, type ApiRequest } from "./fleet.ts";
export { startVmFleet } from "./real-vms.ts";
