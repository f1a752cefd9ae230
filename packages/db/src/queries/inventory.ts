/**
 * What a host says it has, put together from the beats that any scheduler has received, and
 * compared with what the database says.
 */
import { type InventoryEntry, inventoryDigest } from "@torpor/contracts";
import { and, eq, inArray, sql } from "drizzle-orm";
import type { Database, Tx } from "../database.ts";
import { hostInventoryParts, sandboxes } from "../schema.ts";
import { isResidentOn, type SandboxRow } from "./move-sandbox.ts";

export interface InventoryPart {
  hostId: string;
  entries: InventoryEntry[];
  /** Of the whole. */
  count: number;
  digest: string;
}

/**
 * The whole inventory that the part is of, once its digest proves that no part is missing; else
 * undefined.
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

/** Of one host: more than any has. */
const MAX_PARTS = 500;

/**
 * Keeps the part, forgets those of other inventories, and returns all of this one once there are as
 * many entries as it has.
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
  // Parts of one digest that are no inventory: begin anew.
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
  hostId: string;
  isQuarantined: boolean;
  hasSnapshot: boolean;
}

export interface EntryNews {
  hostId: string;
  sandboxId: string;
  /**
   * Of an epoch that has passed, on the sandbox's own host: it settles nothing, but may say that a
   * snapshot is stored.
   */
  isLate: boolean;
}

/** Those entries, of any hosts, that say what the database has not got, or what it contradicts. */
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
  // As in applyObservation: what is stale says nothing, but of an earlier epoch that a snapshot
  // has been stored.
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
  /** The database says that it stands there; else it may be on its way there or back. */
  isMissing: boolean;
  /** Something executes: what is true of it is being changed. */
  isBusy: boolean;
};

function absentOn(db: Tx, hostId: string) {
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
 * Sandboxes that are on the host, or come from it or to it, as the database has it, and are not
 * among `inventory`.
 */
export async function listAbsentSandboxes(
  db: Tx,
  hostId: string,
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

/** Those of `sandboxIds`, which the host says it has not. */
export async function findAbsentSandboxes(
  db: Tx,
  hostId: string,
  sandboxIds: string[],
): Promise<AbsentSandbox[]> {
  if (sandboxIds.length === 0) return [];
  return await absentOn(db, hostId).where(
    and(inArray(sandboxes.id, sandboxIds), isResidentOn(hostId), isExpected),
  );
}
