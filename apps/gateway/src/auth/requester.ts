/**
 * The parts of a request besides its body: the identity of the client, the key that makes the
 * request repeatable, and whether the client waits.
 */
import { createHash } from "node:crypto";
import type { ApiKeyOwner, Requester } from "@torpor/db";
import type { FastifyRequest } from "fastify";
import stringify from "safe-stable-stringify";
import type { GatewayLimits } from "../deps.ts";
import { invalidRequest } from "../http/errors.ts";

const KEY = /^[\x21-\x7e]{1,255}$/;

/**
 * The sender of a request, and what a repeat is recognized by. `body` holds the fields that count:
 * unknown ones are ignored here too. Throws the 400 for a malformed key.
 */
export function requesterOf(
  request: FastifyRequest,
  owner: ApiKeyOwner,
  deadlineMs: number,
  body?: unknown,
): Requester {
  const requester = {
    organizationId: owner.organizationId,
    requestedBy: `api-key:${owner.apiKeyId}`,
    traceId: request.id,
    deadlineMs,
  };
  const idempotencyKey = request.headers["idempotency-key"];
  if (idempotencyKey === undefined) return requester;
  if (typeof idempotencyKey !== "string" || !KEY.test(idempotencyKey)) {
    throw invalidRequest([
      { field: "Idempotency-Key", message: "must be 1 to 255 visible ASCII characters" },
    ]);
  }
  const path = request.url.split("?", 1)[0];
  const requestSha256 = createHash("sha256")
    // The order of the fields in a body does not count.
    .update(stringify([request.method, path, body ?? null]))
    .digest("hex");
  return { ...requester, idempotencyKey, requestSha256 };
}

/** `Prefer: respond-async` (RFC 7240): the client wants the operation, not its end. */
export function prefersAsync(request: FastifyRequest): boolean {
  return /(^|[\s,])respond-async([\s,;]|$)/i.test(String(request.headers["prefer"] ?? ""));
}

const MIN_WAIT_MS = 3_000;
/**
 * An operation that needs a host gives up before its request does, so that the response has the
 * reason.
 */
const MIN_DEADLINE_LEAD_MS = 2_000;
const MAX_DEADLINE_LEAD_MS = 5_000;

/**
 * The limits of this request. `Prefer: wait=<seconds>` (RFC 7240) lowers them for a client that is
 * less patient than this gateway.
 */
export function limitsOf(request: FastifyRequest, limits: GatewayLimits): GatewayLimits {
  const seconds = /(?:^|[\s,])wait=(\d{1,6})(?:[\s,;]|$)/i.exec(
    String(request.headers["prefer"] ?? ""),
  )?.[1];
  if (seconds === undefined) return limits;
  const waitMs = Math.min(limits.waitMs, Math.max(MIN_WAIT_MS, Number(seconds) * 1000));
  const deadlineMs =
    waitMs - Math.min(MAX_DEADLINE_LEAD_MS, Math.max(MIN_DEADLINE_LEAD_MS, waitMs / 2));
  const { createDeadlineMs, placedDeadlineMs } = limits;
  return {
    ...limits,
    waitMs,
    createDeadlineMs: Math.min(createDeadlineMs, deadlineMs),
    placedDeadlineMs: Math.min(placedDeadlineMs, deadlineMs),
  };
}
