/**
 * The audit log: the requests to this gateway that change something, with sender and outcome.
 *
 * AU1  A request that changes something is in the log before its response is sent, unless the log
 *      is behind: without a database there would be no response either. The rest is written later.
 * AU2  No part of a body is kept: it may hold secrets.
 * AU3  Refused requests of one key or address write a limited number of entries per minute: the
 *      edge has no rate limit for strangers.
 */
import type { IncomingHttpHeaders } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type ApiKeyOwner,
  type Database,
  insertAuditEntries,
  type NewAuditEntry,
} from "@torpor/db";
import { inLane } from "./database-turns.ts";
import type { FastifyBaseLogger } from "fastify";
import { RateLimiterMemory } from "rate-limiter-flexible";

export interface AuditLog {
  /**
   * Resolves when the entry is in the database, after `waitMs`, or at once while the log is behind.
   * Never rejects.
   */
  note(entry: NewAuditEntry): Promise<void>;
}

const WAIT_MS = 1_000;
const RETRY_MS = 1_000;
const BATCH = 200;
const MAX_WAITING = 10_000;
/** Entries for refused requests, per API key, or per address where the key is unknown. */
const REFUSALS_PER_MINUTE = 60;
const MAX_TEXT_LENGTH = 512;

interface Waiting {
  entry: NewAuditEntry;
  written: () => void;
}

export interface AuditDependencies {
  db: Database;
  log: FastifyBaseLogger;
  /** Time between two attempts while the database fails. */
  retryMs?: number;
  /** Longest wait of a response for its entry. */
  waitMs?: number;
}

export interface AuditWriter extends AuditLog {
  /** Tries once more to write the waiting entries. */
  close(): Promise<void>;
}

export function createAuditLog(deps: AuditDependencies): AuditWriter {
  const { db, log, retryMs = RETRY_MS, waitMs = WAIT_MS } = deps;
  const refusals = new RateLimiterMemory({ points: REFUSALS_PER_MINUTE, duration: 60 });
  const waiting: Waiting[] = [];
  let writing: Promise<void> | undefined;
  let isBehind = false;
  let isClosed = false;
  const writeAll = async () => {
    try {
      while (waiting.length > 0) {
        const batch = waiting.slice(0, BATCH);
        const entries = batch.map(({ entry }) => entry);
        // A lane of its own: the batch has entries of all clients, whichever request began it.
        await inLane("audit log", () => insertAuditEntries(db, entries));
        isBehind = false;
        for (const { written } of waiting.splice(0, batch.length)) written();
      }
    } catch (err) {
      if (!isBehind) log.error({ err }, "audit log fell behind; it is written when it can be");
      isBehind = true;
      if (!isClosed) setTimeout(write, retryMs).unref();
    }
  };
  const write = () => {
    writing ??= writeAll().finally(() => {
      writing = undefined;
      // Entries that came after the last batch.
      if (waiting.length > 0 && !isBehind) write();
    });
  };
  const isTooMany = async ({ status, requestedBy, address }: NewAuditEntry) => {
    const isRefusal =
      status === 401 || status === 403 || (requestedBy === null && status >= 400 && status < 500);
    if (!isRefusal) return false;
    return await refusals.consume(requestedBy ?? address).then(
      () => false,
      () => true,
    );
  };
  return {
    async note(entry) {
      if (await isTooMany(entry)) return;
      if (waiting.length >= MAX_WAITING) {
        log.error({ entry }, "audit entry dropped: too many wait to be written");
        return;
      }
      const isWritten = new Promise<void>((resolve) => {
        waiting.push({ entry, written: resolve });
      });
      // While the log is behind, the timer of the last failure retries.
      if (isBehind) return;
      write();
      await Promise.race([isWritten, sleep(waitMs, undefined, { ref: false })]);
    },
    async close() {
      isClosed = true;
      write();
      await writing;
    },
  };
}

/** Excludes reads, unless they are refused, and requests over the rate limit. */
export function isAudited(method: string, status: number, code: string | null): boolean {
  if (code === "RATE_LIMIT_EXCEEDED") return false;
  const isRead = method === "GET" || method === "HEAD" || method === "OPTIONS";
  return !isRead || status === 401 || status === 403;
}

/** Reads the error code and the id of the resource from a response body. */
export function outcomeOf(payload: unknown): { code: string | null; resource: string | null } {
  const none = { code: null, resource: null };
  if (typeof payload !== "string" || !payload.startsWith("{")) return none;
  const body = JSON.parse(payload) as Record<string, unknown>;
  const { code, id, sandbox_id: sandboxId, host_id: hostId } = body;
  const resource = sandboxId ?? id ?? hostId;
  const isId = typeof resource === "string" || typeof resource === "number";
  return { code: typeof code === "string" ? code : null, resource: isId ? String(resource) : null };
}

type Noted = Pick<
  NewAuditEntry,
  "address" | "method" | "path" | "resource" | "status" | "code" | "requestId"
>;

/** `owner` undefined: the request has no API key, or an unknown one. */
export function auditEntry(
  owner: ApiKeyOwner | undefined,
  headers: IncomingHttpHeaders,
  noted: Noted,
): NewAuditEntry {
  const forwardedFor = headers["x-forwarded-for"];
  return {
    ...noted,
    occurredAt: new Date(),
    requestedBy: owner === undefined ? null : `api-key:${owner.apiKeyId}`,
    organizationId: owner?.organizationId ?? null,
    forwardedFor: forwardedFor === undefined ? null : clipped(String(forwardedFor)),
    path: clipped(noted.path),
  };
}

const clipped = (text: string) => text.slice(0, MAX_TEXT_LENGTH);
