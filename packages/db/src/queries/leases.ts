/** Leases of many hosts at once. */
import type { HostState } from "@torpor/state-machine";
import { HOST_STATES, transitionHost } from "@torpor/state-machine";
import { inArray, sql } from "drizzle-orm";
import type { Database } from "../database.ts";
import { hosts } from "../schema.ts";
import { type InventoryProgress, progressColumns } from "./heartbeats.ts";
import { leaseEnd } from "./hosts.ts";

export interface LeaseRenewal {
  hostId: string;
  hasFence: boolean;
}

export interface LeaseAnswer {
  granted: boolean;
  reason?: string;
  /** Of one that was where it belongs already; the others' inventories are wanted whole. */
  standing?: InventoryProgress;
}

/** In which a renewal moves nothing. */
const isRenewed = (state: HostState) =>
  transitionHost({ state, before: null }, "renew").kind === "stay";
const RENEWED = HOST_STATES.filter(isRenewed);

/**
 * Extends the leases of hosts that it moves nowhere and whose rows are free, in one statement.
 * Undefined for the others (lost, revoked, retired, not known, or being written): each is renewed
 * by itself (renewLease), so that none waits for another. In the order of `asked`.
 */
export async function renewFreeLeases(
  db: Database,
  asked: LeaseRenewal[],
  leaseMs: number,
): Promise<(LeaseAnswer | undefined)[]> {
  const rows = await db.execute(sql`
    UPDATE hosts SET lease_expires_at = ${leaseEnd(leaseMs)}, has_fence = free."hasFence"
    FROM (SELECT hosts.id, seen."hasFence"
      FROM jsonb_to_recordset(${JSON.stringify(asked)}::jsonb) AS seen("hostId" text, "hasFence" boolean)
      JOIN hosts ON hosts.id = seen."hostId"
      WHERE ${inArray(hosts.state, RENEWED)} AND hosts.revoked_at IS NULL
      FOR NO KEY UPDATE OF hosts SKIP LOCKED) free
    WHERE hosts.id = free.id RETURNING ${progressColumns}`);
  const renewed = new Map(
    (rows as unknown as InventoryProgress[]).map((standing) => [standing.hostId, standing]),
  );
  return asked.map(({ hostId }) => {
    const standing = renewed.get(hostId);
    return standing === undefined ? undefined : { granted: true, standing };
  });
}
