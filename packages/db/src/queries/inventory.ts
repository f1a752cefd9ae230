/** What a host says it has, put together from the beats that any scheduler has received, and compared with what the database says. */
import { type InventoryEntry, inventoryDigest } from "@torpor/contracts";
import { and, eq, inArray, ne, sql } from "drizzle-orm";
import type { Database, Tx } from "../client.ts";
import { hostInventoryParts, sandboxes } from "../schema.ts";
import type { SandboxRow } from "./move-sandbox.ts";

export interface InventoryPart {
  hostId: string;
  entries: InventoryEntry[];
  /** Of the whole. */
  count: number;
  digest: string;
}

/** The whole inventory that the part is of, once its digest proves that no part is missing; else undefined. */
export async function completeInventory(db: Database, part: InventoryPart): Promise<InventoryEntry[] | undefined> {
  const isWhole = (entries: InventoryEntry[]) => entries.length === part.count && inventoryDigest(entries) === part.digest;
  if (part.entries.length >= part.count) return isWhole(part.entries) ? part.entries : undefined;
  const parts = await addPart(db, part);
  const byId = new Map(parts.flat().map((entry) => [entry.sandboxId, entry]));
  const entries = [...byId.values()];
  return isWhole(entries) ? entries : undefined;
}

/** Of one host: more than any has. */
const MAX_PARTS = 500;

/** Keeps the part, forgets those of other inventories, and returns all that there are of this one. */
async function addPart(db: Database, { hostId, digest, entries }: InventoryPart): Promise<InventoryEntry[][]> {
  const facts = entries.map(({ sandboxId, epoch, opSeq, revision }) => ({ sandboxId, epoch, opSeq, revision }));
  return await db.transaction(async (tx) => {
    await tx.delete(hostInventoryParts).where(and(eq(hostInventoryParts.hostId, hostId), ne(hostInventoryParts.digest, digest)));
    await tx
      .insert(hostInventoryParts)
      .values({ hostId, digest, firstSandboxId: facts[0]?.sandboxId ?? "", entries: facts })
      .onConflictDoNothing();
    const rows = await tx
      .select({ entries: hostInventoryParts.entries })
      .from(hostInventoryParts)
      .where(and(eq(hostInventoryParts.hostId, hostId), eq(hostInventoryParts.digest, digest)));
    // Parts of one digest that are no inventory: begin anew.
    if (rows.length > MAX_PARTS) await tx.delete(hostInventoryParts).where(eq(hostInventoryParts.hostId, hostId));
    return rows.length > MAX_PARTS ? [] : rows.map((row) => row.entries);
  });
}

export type AbsentSandbox = Pick<SandboxRow, "id" | "organizationId" | "state" | "epoch"> & {
  /** Something executes: what is true of it is being changed. */
  isBusy: boolean;
};

/** Sandboxes that stand on the host, as the database has it, and are not among `inventory`. */
export async function listAbsentSandboxes(db: Tx, hostId: string, inventory: InventoryEntry[]): Promise<AbsentSandbox[]> {
  const { id, organizationId, state, epoch } = sandboxes;
  const ids = JSON.stringify(inventory.map(({ sandboxId }) => sandboxId));
  const isBusy = sql<boolean>`EXISTS (SELECT 1 FROM operations open WHERE open.sandbox_id = sandboxes.id AND open.status IN ('executing', 'outcome_unknown'))`;
  return await db
    .select({ id, organizationId, state, epoch, isBusy })
    .from(sandboxes)
    .where(
      and(
        eq(sandboxes.hostId, hostId),
        inArray(state, ["running", "paused", "stopped"]),
        sql`${id} NOT IN (SELECT jsonb_array_elements_text(${ids}::jsonb))`,
      ),
    );
}
