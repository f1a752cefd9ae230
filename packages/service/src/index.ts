export { backoffMs, sleep } from "./backoff.ts";
export { Batches } from "./batches.ts";
export {
  ConfigurationError,
  configured,
  convertTexts,
  loadConfig,
  readSecret,
  readSecrets,
} from "./config.ts";
export {
  createEnvelope,
  type Envelope,
  envelopeFrom,
  type KeyManagement,
  keysOf,
} from "./envelope.ts";
export { given } from "./given.ts";
export { startHealthServer } from "./health.ts";
export { createLogger, type Logger, LogLevel } from "./logger.ts";
export { messageOf } from "./message-of.ts";
export { claimPort, claimPorts, type ClaimedPort, tryClaimName, tryClaimPort } from "./ports.ts";
export { startReconciler, type Reconciler } from "./reconciler.ts";
export { run, type RunOptions } from "./run.ts";
export { runService, type Closer } from "./run-service.ts";
export {
  bootId,
  findProcesses,
  identify,
  isAlive,
  type ProcessIdentity,
  residentBytes,
  signalProcess,
  waitUntilGone,
} from "./processes.ts";
export {
  boxPublicKey,
  createBoxKey,
  isBoxPublicKey,
  openBox,
  type SealedBox,
  sealFor,
} from "./sealed-box.ts";
export { endsWithin, withTimeLimit } from "./time-limit.ts";
export { findFailingRounds, type WorkProblem } from "./work.ts";
