/**
 * Inventories of hosts, put together from heartbeats that any scheduler has received, and compared
 * with the database.
 */
import {
  type HostId,
  inventoryDigest,
  type InventoryEntry,
  type SandboxId,
} from "@torpor/contracts";
import { and, eq, inArray, sql } from "drizzle-orm";
import type { Database, Tx } from "../../database.ts";
import { hostInventoryParts, sandboxes } from "../../schema.ts";
import { isResidentOn, type SandboxRow } from "../sandboxes/sandbox-row.ts";

export interface InventoryPart {
  hostId: HostId;
  entries: InventoryEntry[];
  /** Number of entries of the whole inventory. */
  count: number;
  digest: string;
}

/**
 * The whole inventory of the part, once its digest proves that no part is missing; else undefined.
 */
export async function completeInventory(
  db: Database,
  part: InventoryPart,
): Promise<InventoryEntry[] | undefined> {
  const isWhole = (entries: InventoryEntry[]) =>
    entries.length === part.count && inventoryDigest(entries) === part.digest;
  if (part.entries.length >= part.count) return isWhole(part.entries) ? part.entries : undefined;
  const parts = await addPart(db, part);
  const byId = new Map(parts.flat().map((entry) => [entry.sandboxId, entry]));
  const entries = [...byId.values()];
  return isWhole(entries) ? entries : undefined;
}

/** Per host: more than any host needs. */
const MAX_PARTS = 500;

/**
 * Stores the part, deletes parts of other inventories, and returns all parts of this inventory once
 * its entries are complete.
 */
async function addPart(
  db: Database,
  { hostId, digest, entries, count }: InventoryPart,
): Promise<InventoryEntry[][]> {
  const facts = entries.map(({ sandboxId, epoch, opSeq, revision }) => ({
    sandboxId,
    epoch,
    opSeq,
    revision,
  }));
  await db.execute(sql`
    WITH others AS (DELETE FROM host_inventory_parts WHERE host_id = ${hostId} AND digest <> ${digest})
    INSERT INTO host_inventory_parts (host_id, digest, first_sandbox_id, entries, entry_count)
    VALUES (${hostId}, ${digest}, ${facts[0]?.sandboxId ?? ""}, ${JSON.stringify(facts)}::jsonb, ${facts.length}) ON CONFLICT DO NOTHING`);
  const ofThis = and(eq(hostInventoryParts.hostId, hostId), eq(hostInventoryParts.digest, digest));
  const [kept] = await db
    .select({
      parts: sql<number>`count(*)::int`,
      entries: sql<number>`coalesce(sum(coalesce(${hostInventoryParts.entryCount}, jsonb_array_length(${hostInventoryParts.entries}))), 0)::int`,
    })
    .from(hostInventoryParts)
    .where(ofThis);
  // Parts with one digest that never make an inventory: begin again.
  if (kept !== undefined && kept.parts > MAX_PARTS)
    await db.delete(hostInventoryParts).where(eq(hostInventoryParts.hostId, hostId));
  if (kept === undefined || kept.parts > MAX_PARTS || kept.entries < count) return [];
  const rows = await db
    .select({ entries: hostInventoryParts.entries })
    .from(hostInventoryParts)
    .where(ofThis);
  return rows.map((row) => row.entries);
}

export interface ReportedEntry extends InventoryEntry {
  hostId: HostId;
  isQuarantined: boolean;
  hasSnapshot: boolean;
}

export interface EntryNews {
  hostId: HostId;
  sandboxId: SandboxId;
  /**
   * From an earlier epoch, on the sandbox's own host: completes no operation, but may report that a
   * snapshot is stored.
   */
  isLate: boolean;
}

/** Entries of any hosts that are new to the database, or contradict the database. */
export async function findNews(db: Tx, entries: ReportedEntry[]): Promise<EntryNews[]> {
  if (entries.length === 0) return [];
  const seen = entries.map(
    ({ hostId, sandboxId, epoch, opSeq, revision, isQuarantined, hasSnapshot }) => ({
      h: hostId,
      i: sandboxId,
      e: epoch,
      o: opSeq,
      r: revision,
      q: isQuarantined,
      s: hasSnapshot,
    }),
  );
  // As in applyObservation: a stale entry counts only if it reports a stored snapshot of an earlier
  // epoch.
  const rows = await db.execute(sql`
    SELECT seen.h AS "hostId", seen.i AS "sandboxId", (sandbox.host_id = seen.h AND seen.e < sandbox.epoch) IS TRUE AS "isLate"
    FROM jsonb_to_recordset(${JSON.stringify(seen)}::jsonb) AS seen(h text, i text, e int, o int, r int, q boolean, s boolean)
    LEFT JOIN sandboxes sandbox ON sandbox.id = seen.i
    WHERE sandbox.id IS NULL OR sandbox.host_id IS DISTINCT FROM seen.h OR (seen.q AND seen.e >= sandbox.epoch)
      OR (seen.e < sandbox.epoch AND seen.s)
      OR (seen.e >= sandbox.epoch AND seen.o >= sandbox.op_seq
        AND (seen.e, seen.o, seen.r) > (sandbox.applied_epoch, sandbox.applied_op_seq, sandbox.applied_revision))`);
  return rows as unknown as EntryNews[];
}

export type AbsentSandbox = Pick<SandboxRow, "id" | "organizationId" | "state" | "epoch"> & {
  /** The database has the sandbox on this host; false: it may be in transit. */
  isMissing: boolean;
  /** An operation executes and may change this. */
  isBusy: boolean;
};

function absentOn(db: Tx, hostId: HostId) {
  const { id, organizationId, state, epoch } = sandboxes;
  const isMissing = sql<boolean>`${sandboxes.hostId} = ${hostId} AND ${inArray(state, ["running", "paused", "stopped"])}`;
  const isBusy = sql<boolean>`EXISTS (SELECT 1 FROM operations open WHERE open.sandbox_id = sandboxes.id AND open.status IN ('executing', 'outcome_unknown'))`;
  return db
    .select({ id, organizationId, state, epoch, isMissing, isBusy })
    .from(sandboxes)
    .$dynamic();
}

const isExpected = sql`${sandboxes.state} NOT IN ('deleting', 'deleted', 'error')`;

/**
 * Sandboxes that the database has on the host, or in transit from or to it, and that are not in
 * `inventory`.
 */
export async function listAbsentSandboxes(
  db: Tx,
  hostId: HostId,
  inventory: InventoryEntry[],
): Promise<AbsentSandbox[]> {
  const ids = JSON.stringify(inventory.map(({ sandboxId }) => sandboxId));
  return await absentOn(db, hostId).where(
    and(
      isResidentOn(hostId),
      isExpected,
      sql`${sandboxes.id} NOT IN (SELECT jsonb_array_elements_text(${ids}::jsonb))`,
    ),
  );
}

/** Sandboxes among `sandboxIds`, which the host reports as absent, that the database has there. */
export async function findAbsentSandboxes(
  db: Tx,
  hostId: HostId,
  sandboxIds: SandboxId[],
): Promise<AbsentSandbox[]> {
  if (sandboxIds.length === 0) return [];
  return await absentOn(db, hostId).where(
    and(inArray(sandboxes.id, sandboxIds), isResidentOn(hostId), isExpected),
  );
}
