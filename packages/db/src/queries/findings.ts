/**
 * Where a host and the database disagree about a sandbox: found, counted, reported once, and gone
 * when it is no longer so.
 */
import type { HostEventType } from "@torpor/contracts";
import {
  and,
  asc,
  eq,
  getTableColumns,
  gt,
  inArray,
  isNotNull,
  isNull,
  lt,
  lte,
  ne,
  or,
  sql,
} from "drizzle-orm";
import type { Database, Tx } from "../database.ts";
import type { FindingKind } from "../host-records.ts";
import { hostChecks, hostFindings } from "../schema.ts";
import { lockHost, recordHostEvent } from "./host-events.ts";

export type FindingRow = typeof hostFindings.$inferSelect;

export interface NewFinding {
  hostId: string;
  sandboxId: string;
  kind: FindingKind;
  message: string;
  epoch: number;
  quarantined?: boolean;
}

const itsRow = (hostId: string, sandboxId: string) =>
  and(eq(hostFindings.hostId, hostId), eq(hostFindings.sandboxId, sandboxId));
const ago = (ms: number) => sql`now() - ${`${ms} milliseconds`}::interval`;

/** A host may say that it holds any number of sandboxes that are not its own. */
const MAX_FINDINGS_PER_HOST = 1_000;

/** Whether it may be noted: as many of one host as anybody will read, and those that are known. */
export async function mayRecordFinding(
  db: Tx,
  hostId: string,
  sandboxId: string,
): Promise<boolean> {
  const known = await db.$count(hostFindings, itsRow(hostId, sandboxId));
  if (known > 0) return true;
  return (await db.$count(hostFindings, eq(hostFindings.hostId, hostId))) < MAX_FINDINGS_PER_HOST;
}

/**
 * Notes that it was seen once more. Another kind or epoch than before is another finding, and
 * counts from one. Its host is asked about it until it is over (HB3).
 */
export async function recordFinding(db: Tx, finding: NewFinding): Promise<FindingRow> {
  const { hostId, sandboxId, kind, message, epoch, quarantined = false } = finding;
  const isSame = sql`${hostFindings.kind} = ${kind} AND ${hostFindings.epoch} = ${epoch}`;
  const [row] = await db
    .insert(hostFindings)
    .values({ ...finding, quarantined })
    .onConflictDoUpdate({
      target: [hostFindings.hostId, hostFindings.sandboxId],
      set: {
        kind,
        message,
        epoch,
        quarantined,
        lastSeenAt: sql`now()`,
        timesSeen: sql`CASE WHEN ${isSame} THEN ${hostFindings.timesSeen} + 1 ELSE 1 END`,
        firstSeenAt: sql`CASE WHEN ${isSame} THEN ${hostFindings.firstSeenAt} ELSE now() END`,
        reportedAt: sql`CASE WHEN ${isSame} THEN ${hostFindings.reportedAt} END`,
        discardRequestedBy: sql`CASE WHEN ${isSame} THEN ${hostFindings.discardRequestedBy} END`,
      },
    })
    .returning();
  if (row === undefined) throw new Error("the recorded finding was not returned");
  // After the finding: a check that ends meanwhile ends because it saw none.
  await db.insert(hostChecks).values({ hostId, sandboxId }).onConflictDoNothing();
  return row;
}

/** Enters it into the host's history; false when that was done before. */
export async function reportFinding(db: Database, finding: FindingRow): Promise<boolean> {
  const { hostId, sandboxId, kind, message } = finding;
  return await db.transaction(async (tx) => {
    const first = await tx
      .update(hostFindings)
      .set({ reportedAt: sql`now()` })
      .where(and(itsRow(hostId, sandboxId), isNull(hostFindings.reportedAt)))
      .returning({ id: hostFindings.sandboxId });
    if (first.length === 0) return false;
    await note(tx, hostId, `sandbox_${kind}`, "system:inventory", {
      code: `SANDBOX_${kind.toUpperCase()}`,
      message,
    });
    return true;
  });
}

/** True for one of those who ask within `everyMs`: it tells the host. */
export async function mayTellHost(
  db: Tx,
  hostId: string,
  sandboxId: string,
  everyMs: number,
): Promise<boolean> {
  const mine = await db
    .update(hostFindings)
    .set({ toldAt: sql`now()` })
    .where(
      and(
        itsRow(hostId, sandboxId),
        or(isNull(hostFindings.toldAt), lt(hostFindings.toldAt, ago(everyMs))),
      ),
    )
    .returning({ id: hostFindings.sandboxId });
  return mine.length > 0;
}

/**
 * Copies that the host has not shown for `unseenMs`: it has them no more, or the database knows
 * them again. Returns what is over.
 */
export async function endOrphanFindings(
  db: Database,
  hostId: string,
  unseenMs: number,
): Promise<FindingRow[]> {
  const isOver = and(
    eq(hostFindings.hostId, hostId),
    ne(hostFindings.kind, "missing"),
    lt(hostFindings.lastSeenAt, ago(unseenMs)),
  );
  if ((await db.$count(hostFindings, isOver)) === 0) return [];
  return await end(db, hostId, isOver);
}

/** Missing ones, given those of which it is over. Returns those that were reported. */
export async function endMissingFindings(
  db: Database,
  hostId: string,
  sandboxIds: string[],
): Promise<FindingRow[]> {
  if (sandboxIds.length === 0) return [];
  return await end(
    db,
    hostId,
    and(
      eq(hostFindings.hostId, hostId),
      eq(hostFindings.kind, "missing"),
      inArray(hostFindings.sandboxId, sandboxIds),
    ),
  );
}

async function end(
  db: Database,
  hostId: string,
  which: ReturnType<typeof and>,
): Promise<FindingRow[]> {
  return await db.transaction(async (tx) => {
    const over = (await tx.delete(hostFindings).where(which).returning()).filter(
      ({ reportedAt }) => reportedAt !== null,
    );
    for (const { sandboxId, kind } of over) {
      const message = `Sandbox ${sandboxId} is no longer ${kind} on this host.`;
      await note(tx, hostId, "finding_ended", "system:inventory", {
        code: `SANDBOX_${kind.toUpperCase()}`,
        message,
      });
    }
    return over;
  });
}

/** Those of one kind, reported or not. */
export async function listFindingsOf(
  db: Tx,
  hostId: string,
  kind: FindingKind,
): Promise<FindingRow[]> {
  return await db
    .select()
    .from(hostFindings)
    .where(and(eq(hostFindings.hostId, hostId), eq(hostFindings.kind, kind)));
}

/** Reported ones of a host, by sandbox, those after `afterSandboxId`. */
export async function listFindings(
  db: Tx,
  hostId: string,
  limit: number,
  afterSandboxId = "",
): Promise<FindingRow[]> {
  return await db
    .select()
    .from(hostFindings)
    .where(
      and(
        eq(hostFindings.hostId, hostId),
        isNotNull(hostFindings.reportedAt),
        gt(hostFindings.sandboxId, afterSandboxId),
      ),
    )
    .orderBy(asc(hostFindings.sandboxId))
    .limit(limit);
}

export interface FindingSummary {
  /** Reported ones, all of them. */
  count: number;
  /** The first of them, by sandbox. */
  shown: FindingRow[];
}

/** Per host, by id; those without any are not in it. */
export async function summarizeFindings(
  db: Tx,
  hostIds: string[],
  shownEach: number,
): Promise<Map<string, FindingSummary>> {
  if (hostIds.length === 0) return new Map();
  const ranked = db
    .select({
      ...getTableColumns(hostFindings),
      rank: sql<number>`row_number() OVER (PARTITION BY ${hostFindings.hostId} ORDER BY ${hostFindings.sandboxId})`.as(
        "rank",
      ),
      total: sql<number>`(count(*) OVER (PARTITION BY ${hostFindings.hostId}))::int`.as("total"),
    })
    .from(hostFindings)
    .where(and(inArray(hostFindings.hostId, hostIds), isNotNull(hostFindings.reportedAt)))
    .as("ranked");
  const rows = await db
    .select()
    .from(ranked)
    .where(lte(ranked.rank, shownEach))
    .orderBy(asc(ranked.rank));
  const byHost = Map.groupBy(rows, ({ hostId }) => hostId);
  return new Map(
    [...byHost].map(([hostId, its]) => [
      hostId,
      {
        count: its[0]?.total ?? 0,
        shown: its.map(({ rank: _rank, total: _total, ...finding }) => finding),
      },
    ]),
  );
}

export type DiscardRequested = { kind: "requested" | "not_found" | "missing" };

/** An operator says that a copy is of no use. The host is told as long as it shows it. */
export async function requestDiscard(
  db: Database,
  hostId: string,
  sandboxId: string,
  requestedBy: string,
): Promise<DiscardRequested> {
  return await db.transaction(async (tx) => {
    const [finding] = await tx
      .select()
      .from(hostFindings)
      .where(itsRow(hostId, sandboxId))
      .for("update");
    if (finding === undefined || finding.reportedAt === null) return { kind: "not_found" };
    if (finding.kind === "missing") return { kind: "missing" };
    if (finding.discardRequestedBy !== null) return { kind: "requested" };
    await tx
      .update(hostFindings)
      .set({ discardRequestedBy: requestedBy, toldAt: null })
      .where(itsRow(hostId, sandboxId));
    const message = `The copy of sandbox ${sandboxId} on this host is to be discarded.`;
    await note(tx, hostId, "discard_requested", requestedBy, {
      code: "DISCARD_REQUESTED",
      message,
    });
    return { kind: "requested" };
  });
}

async function note(
  tx: Tx,
  hostId: string,
  fact: HostEventType,
  requestedBy: string,
  cause: { code: string; message: string },
): Promise<void> {
  const host = await lockHost(tx, hostId);
  if (host === undefined) return;
  await recordHostEvent(tx, { hostId, fact, from: host.state, to: host.state, requestedBy, cause });
}
