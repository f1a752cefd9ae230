export { type FleetRequest, FleetTls, peerOf, requestTo, type TlsFiles } from "./fleet-tls.ts";
export {
  certificateProblems,
  isRenewalDue,
  renewalDueMs,
  type Validity,
  validityOf,
} from "./lifetime.ts";
export { type SpiffeIdentity, identityIn, spiffeIdOf } from "./spiffe.ts";
export { openTls, TLS_SETTINGS, tlsFilesIn } from "./settings.ts";
