/** Renews the leases of many hosts at once. */
import type { HostId } from "@torpor/contracts";
import type { HostState } from "@torpor/state-machine";
import { HOST_STATES, transitionHost } from "@torpor/state-machine";
import { inArray, sql } from "drizzle-orm";
import type { Database } from "../../database.ts";
import { hosts } from "../../schema.ts";
import { type InventoryProgress, progressColumns } from "./heartbeats.ts";
import { leaseEnd } from "./hosts.ts";

export interface LeaseRenewal {
  hostId: HostId;
  hasFence: boolean;
}

export interface LeaseAnswer {
  granted: boolean;
  reason?: string;
  /** Set for a host whose state did not change; the other hosts have to send a whole inventory. */
  standing?: InventoryProgress;
}

/** States that a renewal does not change. */
const isRenewed = (state: HostState) =>
  transitionHost({ state, before: null }, "renew").kind === "stay";
const RENEWED = HOST_STATES.filter(isRenewed);

/**
 * Extends, in one statement, the leases of hosts whose state does not change and whose rows are not
 * locked. Undefined for the others (lost, revoked, retired, unknown, or locked): each is renewed by
 * itself (renewLease), so that no host waits for another. In the order of `asked`.
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
