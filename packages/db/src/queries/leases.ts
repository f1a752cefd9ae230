/** Leases of many hosts at once. */
import type { HostState } from "@torpor/state-machine";
import { HOST_STATES, transitionHost } from "@torpor/state-machine";
import { inArray, sql } from "drizzle-orm";
import type { Database } from "../client.ts";
import { hosts } from "../schema.ts";
import { type InventoryStanding, standingColumns } from "./beats.ts";
import { leaseEnd, renewLease } from "./hosts.ts";

export interface LeaseAsked {
  hostId: string;
  hasFence: boolean;
}

export interface LeaseAnswer {
  granted: boolean;
  reason?: string;
  /** Of one that was where it belongs already; the others' inventories are wanted whole. */
  standing?: InventoryStanding;
}

/** In which a renewal moves nothing. */
const isRenewed = (state: HostState) =>
  transitionHost({ state, before: null }, "renew").kind === "stay";
const RENEWED = HOST_STATES.filter(isRenewed);

/**
 * Extends the leases, in one statement for all hosts that it moves nowhere and whose rows are free;
 * one by one (renewLease) for the others: lost, revoked, retired, not known, or being written. In
 * the order of `asked`.
 */
export async function renewLeases(
  db: Database,
  asked: LeaseAsked[],
  leaseMs: number,
): Promise<LeaseAnswer[]> {
  const rows = await db.execute(sql`
    UPDATE hosts SET lease_expires_at = ${leaseEnd(leaseMs)}, has_fence = free."hasFence"
    FROM (SELECT hosts.id, seen."hasFence"
      FROM jsonb_to_recordset(${JSON.stringify(asked)}::jsonb) AS seen("hostId" text, "hasFence" boolean)
      JOIN hosts ON hosts.id = seen."hostId"
      WHERE ${inArray(hosts.state, RENEWED)} AND hosts.revoked_at IS NULL
      FOR NO KEY UPDATE OF hosts SKIP LOCKED) free
    WHERE hosts.id = free.id RETURNING ${standingColumns}`);
  const renewed = new Map(
    (rows as unknown as InventoryStanding[]).map((standing) => [standing.hostId, standing]),
  );
  return await Promise.all(
    asked.map(async ({ hostId, hasFence }) => {
      const standing = renewed.get(hostId);
      return standing === undefined
        ? await renewLease(db, hostId, leaseMs, hasFence)
        : { granted: true, standing };
    }),
  );
}
