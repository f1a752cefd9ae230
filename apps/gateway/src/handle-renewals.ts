/**
 * Hosts renew their certificates over the bus, where the NATS servers say who asks. Answered by
 * gateways that have the fleet's authority; in a fleet without, nobody is there.
 *
 * RN1  A host gets its own name, whatever its request says, for the key that it joined with: a
 *      certificate alone is worth nothing to whoever has another key.
 * RN2  One that is revoked or retired gets none.
 */
import { handleRequests, type Bus } from "@torpor/bus";
import {
  type CertificateReply,
  CertificateRequest,
  decoder,
  patterns,
  hostIdOf,
} from "@torpor/contracts";
import { type Database, type RenewalRefusal, renewHostCertificate } from "@torpor/db";
import type { Logger } from "@torpor/service";
import { ApiError } from "./errors.ts";
import type { FleetIdentity } from "./fleet-identity.ts";
import { createRateLimiter, type RateLimiter } from "./rate-limit.ts";

const decodeRequest = decoder(CertificateRequest);
const QUEUE = "gateways";
/** Of one host. One is needed in months; a signature costs a gateway's processor some. */
const PER_MINUTE = 6;

interface RenewalDeps {
  db: Database;
  fleetIdentity: FleetIdentity;
  log: Logger;
}

/** Returns how to stop. */
export function handleRenewals(bus: Bus, deps: RenewalDeps): () => Promise<void> {
  if (!deps.fleetIdentity.hasAuthority) return async () => {};
  const limiter = createRateLimiter(PER_MINUTE);
  return handleRequests(bus, {
    pattern: patterns.asks("certificate"),
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
  asker: string | undefined,
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
