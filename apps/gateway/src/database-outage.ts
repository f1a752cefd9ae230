import { sqlState } from "@torpor/db";

/** Codes of the driver and of its socket: there is no usable connection. */
const CONNECTION_CODES = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "ENOENT",
  "EPIPE",
  "ETIMEDOUT",
  "EHOSTUNREACH",
  "ENOTFOUND",
  "EAI_AGAIN",
  "CONNECT_TIMEOUT",
  "CONNECTION_CLOSED",
  "CONNECTION_DESTROYED",
  "CONNECTION_ENDED",
]);

/**
 * SQLSTATE classes: 08 connection, 40 rolled back (a deadlock), 53 out of resources, 57 operator
 * intervention (shutdown, start-up, statement timeout).
 */
const OUTAGE_CLASSES = new Set(["08", "40", "53", "57"]);

/** True when a query failed because the database is away, not because of the query. */
export function isDatabaseOutage(error: unknown): boolean {
  const state = sqlState(error);
  if (state !== undefined && OUTAGE_CLASSES.has(state.slice(0, 2))) return true;
  for (let current = error; current instanceof Error; current = current.cause) {
    const code = (current as { code?: unknown }).code;
    if (typeof code === "string" && CONNECTION_CODES.has(code)) return true;
  }
  return false;
}
