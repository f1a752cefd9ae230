/**
 * Renews certificates of hosts over the bus, where the NATS servers authenticate the host. Gateways
 * with the fleet's authority handle the request; in a fleet without one, no gateway does.
 *
 * RN1  A host gets only its own name, whatever its request contains, and only for the key that it
 *      joined with: a certificate is worth nothing without its key.
 * RN2  A revoked or retired host gets no certificate.
 */
import { handleRequests, type Bus } from "@torpor/bus";
import {
  type CertificateReply,
  CertificateRequest,
  decoder,
  type HostId,
  hostIdOf,
  patterns,
} from "@torpor/contracts";
import { type Database, type RenewalRefusal, renewHostCertificate } from "@torpor/db";
import type { Logger } from "@torpor/service";
import { ApiError } from "../http/errors.ts";
import { createRateLimiter, type RateLimiter } from "../auth/rate-limit.ts";
import type { FleetIdentity } from "./fleet-identity.ts";

const decodeRequest = decoder(CertificateRequest);
const QUEUE = "gateways";
/** Requests of one host per minute. A host needs one in months; a signature costs CPU time. */
const PER_MINUTE = 6;

interface RenewalDeps {
  db: Database;
  fleetIdentity: FleetIdentity;
  log: Logger;
}

/** Returns the function that stops it. */
export function handleRenewals(bus: Bus, deps: RenewalDeps): () => Promise<void> {
  if (!deps.fleetIdentity.hasAuthority) return async () => {};
  const limiter = createRateLimiter(PER_MINUTE);
  return handleRequests(bus, {
    pattern: patterns.requests("certificate"),
    queue: QUEUE,
    decode: decodeRequest,
    handle: async (request, subject) => await renew(deps, limiter, hostIdOf(subject), request),
    refuse,
    log: deps.log,
  });
}

async function renew(
  { db, fleetIdentity, log }: RenewalDeps,
  limiter: RateLimiter,
  asker: HostId | undefined,
  { hostId, certificateRequest }: CertificateRequest,
): Promise<CertificateReply> {
  if (asker !== hostId) return refuse(`host ${asker} may not speak for host ${hostId}`);
  const tooMany = await limiter.take(hostId).then(() => undefined, refusalIn);
  if (tooMany !== undefined) return refuse(tooMany);
  const certified = await fleetIdentity.certify(certificateRequest, hostId);
  if (certified === undefined)
    return refuse("certificateRequest is no request that is signed by its own key");
  const { keySha256: certificateKeySha256, certificatePem, expiresAt } = certified;
  if (certificatePem === null || expiresAt === null) return refuse("this gateway has no authority");
  let refusal: RenewalRefusal | undefined;
  try {
    refusal = await renewHostCertificate(db, { hostId, certificateKeySha256, expiresAt });
  } catch (err) {
    log.error({ err, hostId }, "certificate not renewed: the database did not answer");
    return refuse("the gateway could not ask the database, which says who may; it is tried again");
  }
  if (refusal !== undefined) {
    log.warn({ hostId, refusal }, "certificate refused");
    return refuse(WHY[refusal]);
  }
  log.info({ hostId, expiresAt }, "certificate renewed");
  return { granted: true, certificate: certificatePem };
}

const refuse = (reason: string): CertificateReply => ({ granted: false, reason });

function refusalIn(error: unknown): string {
  if (error instanceof ApiError) return error.message;
  throw error;
}

const WHY: Record<RenewalRefusal, string> = {
  not_joined: "this host did not join by a token: whoever made its certificate makes the next one",
  revoked: "this host was revoked: it can only join again, with a token",
  retired: "this host was retired, and stays so",
  another_key: "the request is for another key than the one that this host joined with",
};
