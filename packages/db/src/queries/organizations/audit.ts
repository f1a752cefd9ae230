/** The audit log: who requested what. A trigger refuses changes and early deletes. */
import { and, desc, eq, lt, sql } from "drizzle-orm";
import type { Database, Tx } from "../../database.ts";
import { auditEntries } from "../../schema.ts";

export type AuditEntryRow = typeof auditEntries.$inferSelect;
export type NewAuditEntry = typeof auditEntries.$inferInsert;

export async function insertAuditEntries(db: Tx, entries: NewAuditEntry[]): Promise<void> {
  if (entries.length > 0) await db.insert(auditEntries).values(entries);
}

export interface AuditFilter {
  requestedBy: string | undefined;
  organizationId: number | undefined;
  limit: number;
  /** Only entries with a lower id. */
  beforeId: number | undefined;
}

/** Newest first. */
export async function listAuditEntries(db: Tx, filter: AuditFilter): Promise<AuditEntryRow[]> {
  const { requestedBy, organizationId, beforeId } = filter;
  return await db
    .select()
    .from(auditEntries)
    .where(
      and(
        requestedBy === undefined ? undefined : eq(auditEntries.requestedBy, requestedBy),
        organizationId === undefined ? undefined : eq(auditEntries.organizationId, organizationId),
        beforeId === undefined ? undefined : lt(auditEntries.id, beforeId),
      ),
    )
    .orderBy(desc(auditEntries.id))
    .limit(filter.limit);
}

/** Deletes entries after 366 days; the trigger protects them for 365 days. Returns how many. */
export async function pruneAuditEntries(db: Database): Promise<number> {
  const rows = await db
    .delete(auditEntries)
    .where(lt(auditEntries.occurredAt, sql`now() - interval '366 days'`))
    .returning({ id: auditEntries.id });
  return rows.length;
}
