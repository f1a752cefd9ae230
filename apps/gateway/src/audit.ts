/**
 * The audit log: what was asked of this gateway, by whom, and what came of it.
 *
 * AU1  A request that changes something is in the log before its answer is sent, unless the log is
 *      behind: with no database there would be no answer either. What is behind is written later.
 * AU2  Nothing of a body is kept: it may hold secrets.
 * AU3  Whoever is refused writes no more than so many entries: the edge does not count strangers.
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
  /** Resolves when the entry is in the database, or after a while. Never rejects. */
  note(entry: NewAuditEntry): Promise<void>;
}

const WAIT_MS = 1_000;
const RETRY_MS = 1_000;
const BATCH = 200;
const MAX_WAITING = 10_000;
/** Of one key, or without one of one address. */
const REFUSALS_PER_MINUTE = 60;
const MAX_TEXT_LENGTH = 512;

interface Waiting {
  entry: NewAuditEntry;
  written: () => void;
}

export interface AuditDependencies {
  db: Database;
  log: FastifyBaseLogger;
  /** Between two attempts while the database is away. */
  retryMs?: number;
  /** An answer does not wait longer for its entry. */
  waitMs?: number;
}

export interface AuditWriter extends AuditLog {
  /** Writes what waits, if the database lets it. */
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
        // Of everybody's requests, whoever's began it.
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
      // What came after the last look.
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
      // While it is behind, the timer of the last failure tries again.
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

/** Reads are not audited unless they are refused, nor is what comes over the rate limit. */
export function isAudited(method: string, status: number, code: string | null): boolean {
  if (code === "RATE_LIMIT_EXCEEDED") return false;
  const isRead = method === "GET" || method === "HEAD" || method === "OPTIONS";
  return !isRead || status === 401 || status === 403;
}

/** What an answer says of itself: why it is a refusal, and what the request was about. */
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

/** `owner` undefined: of the key that was sent, if any, nothing is known. */
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
