/**
 * Disagreements between a host and the database about a sandbox: counted, reported once, and
 * deleted when they are over.
 */
import type { HostEventType, HostId, SandboxId } from "@torpor/contracts";
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
import type { Database, Tx } from "../../database.ts";
import type { FindingKind } from "../../host-records.ts";
import { hostChecks, hostFindings } from "../../schema.ts";
import { lockHost, recordHostEvent } from "./host-events.ts";

export type FindingRow = typeof hostFindings.$inferSelect;

export interface NewFinding {
  hostId: HostId;
  sandboxId: SandboxId;
  kind: FindingKind;
  message: string;
  epoch: number;
  quarantined?: boolean;
}

const itsRow = (hostId: HostId, sandboxId: SandboxId) =>
  and(eq(hostFindings.hostId, hostId), eq(hostFindings.sandboxId, sandboxId));
const ago = (ms: number) => sql`now() - ${`${ms} milliseconds`}::interval`;

/** Limit, because a host can report any number of foreign sandboxes. */
const MAX_FINDINGS_PER_HOST = 1_000;

/** True for a known finding, and while the host has fewer findings than the limit. */
export async function mayRecordFinding(
  db: Tx,
  hostId: HostId,
  sandboxId: SandboxId,
): Promise<boolean> {
  const known = await db.$count(hostFindings, itsRow(hostId, sandboxId));
  if (known > 0) return true;
  return (await db.$count(hostFindings, eq(hostFindings.hostId, hostId))) < MAX_FINDINGS_PER_HOST;
}

/**
 * Records one more sighting. Another kind or epoch is a new finding, and counts from one. The host
 * has to report the sandbox until the finding is over (HB3).
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
  // After the finding: a concurrent end of the check has then seen no finding.
  await db.insert(hostChecks).values({ hostId, sandboxId }).onConflictDoNothing();
  return row;
}

/** Enters the finding into the host's history; false when it is already there. */
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

/** True for one caller in `everyMs`, which then sends the host a command. */
export async function mayTellHost(
  db: Tx,
  hostId: HostId,
  sandboxId: SandboxId,
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
 * Ends findings of copies that the host has not reported for `unseenMs`: the copies are gone, or
 * the database knows them again. Returns the findings that had been reported.
 */
export async function endOrphanFindings(
  db: Database,
  hostId: HostId,
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

/** Ends `missing` findings of these sandboxes. Returns the findings that had been reported. */
export async function endMissingFindings(
  db: Database,
  hostId: HostId,
  sandboxIds: SandboxId[],
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
  hostId: HostId,
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

/** Findings of one kind, reported or not. */
export async function listFindingsOf(
  db: Tx,
  hostId: HostId,
  kind: FindingKind,
): Promise<FindingRow[]> {
  return await db
    .select()
    .from(hostFindings)
    .where(and(eq(hostFindings.hostId, hostId), eq(hostFindings.kind, kind)));
}

/** Reported findings of a host after `afterSandboxId`, by sandbox. */
export async function listFindings(
  db: Tx,
  hostId: HostId,
  limit: number,
  afterSandboxId?: SandboxId,
): Promise<FindingRow[]> {
  return await db
    .select()
    .from(hostFindings)
    .where(
      and(
        eq(hostFindings.hostId, hostId),
        isNotNull(hostFindings.reportedAt),
        gt(hostFindings.sandboxId, sql`${afterSandboxId ?? ""}`),
      ),
    )
    .orderBy(asc(hostFindings.sandboxId))
    .limit(limit);
}

export interface FindingSummary {
  /** Number of reported findings. */
  count: number;
  /** The first reported findings, by sandbox. */
  shown: FindingRow[];
}

/** Summaries by host id; hosts without findings have no entry. */
export async function summarizeFindings(
  db: Tx,
  hostIds: HostId[],
  shownEach: number,
): Promise<Map<HostId, FindingSummary>> {
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

/** Marks a copy for discard, for an operator; a host that reports the copy gets the discard. */
export async function requestDiscard(
  db: Database,
  hostId: HostId,
  sandboxId: SandboxId,
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
  hostId: HostId,
  fact: HostEventType,
  requestedBy: string,
  cause: { code: string; message: string },
): Promise<void> {
  const host = await lockHost(tx, hostId);
  if (host === undefined) return;
  await recordHostEvent(tx, { hostId, fact, from: host.state, to: host.state, requestedBy, cause });
}
