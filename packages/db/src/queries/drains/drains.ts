/**
 * Drains of hosts: what was requested, and the progress of each sandbox. Any number of schedulers
 * decide from these rows what to do.
 *
 * DN1  A drain moves at most `max_parallel` sandboxes at once: a slot is taken under a lock on the
 *      drain's row.
 * DN2  One scheduler at a time decides about a sandbox, under locks on the sandbox's row and then
 *      on its row here. A user's pause takes the locks in the same order.
 * DN3  A decision reads the drain under a lock that is held until the commit, so a drain that has
 *      ended pauses nothing.
 */
import type { Cause, HostId, SandboxId } from "@torpor/contracts";
import { DRAINER } from "@torpor/plans";
import { and, asc, eq, isNotNull, isNull, lt, ne, or, sql } from "drizzle-orm";
import type { Database, Tx } from "../../database.ts";
import { isOneOf } from "../../literals.ts";
import { drains, drainSandboxes, hosts, sandboxes, snapshots } from "../../schema.ts";
import { type HostMoved, lockHost, moveHost, recordHostEvent } from "../hosts/host-events.ts";
import { isResidentOn, type SandboxRow } from "../sandboxes/sandbox-row.ts";

export type DrainRow = typeof drains.$inferSelect;
export type DrainSandboxRow = typeof drainSandboxes.$inferSelect;

export interface DrainBudget {
  maxParallel: number;
  maxBytesPerSecond: number | null;
  deadlineAt: Date | null;
}

export type DrainChanged = HostMoved | { kind: "not_found" };

const MIB = sql`1048576::bigint`;

const atWork = isOneOf(drains.status, "active", "undoing");

/**
 * Starts a drain. A host that is draining gets the new budget; an `undoing` drain becomes active
 * again.
 */
export async function requestDrain(
  db: Database,
  hostId: HostId,
  budget: DrainBudget,
  requestedBy: string,
): Promise<DrainChanged> {
  return await db.transaction(async (tx) => {
    const host = await lockHost(tx, hostId);
    if (host === undefined) return { kind: "not_found" };
    const moved = await moveHost(tx, { host, event: "drain", fact: "drain_started", requestedBy });
    if (moved.kind === "refused") return moved;
    const [known] = await tx
      .update(drains)
      .set({
        ...budget,
        status: "active",
        endsAs: null,
        measuredAt: sql`now()`,
        bytesPerSecond: null,
      })
      .where(and(eq(drains.hostId, hostId), atWork))
      .returning();
    const [drain = known] =
      known === undefined
        ? await tx
            .insert(drains)
            .values({ ...budget, hostId, status: "active", requestedBy })
            .returning()
        : [];
    if (drain === undefined) throw new Error("the inserted drain was not returned");
    await listSandboxesToMove(tx, drain);
    return moved;
  });
}

/**
 * Ends a drain before its host is empty: the host is cordoned, and sandboxes that the drain has
 * paused are resumed.
 */
export async function endDrain(
  db: Database,
  hostId: HostId,
  how: { endsAs: "aborted" | "expired"; requestedBy: string; cause?: Cause },
): Promise<DrainChanged> {
  return await db.transaction(async (tx) => {
    const host = await lockHost(tx, hostId);
    if (host === undefined) return { kind: "not_found" };
    const { endsAs, requestedBy, cause } = how;
    const moved = await moveHost(tx, {
      host,
      event: "abort_drain",
      fact: `drain_${endsAs}`,
      requestedBy,
      cause,
    });
    if (moved.kind === "moved") {
      await tx
        .update(drains)
        .set({ status: "undoing", endsAs })
        .where(and(eq(drains.hostId, hostId), eq(drains.status, "active")));
      return moved;
    }
    const [undoing] = await tx
      .select({ id: drains.id })
      .from(drains)
      .where(and(eq(drains.hostId, hostId), eq(drains.status, "undoing")));
    return undoing === undefined ? moved : { kind: "stay", host };
  });
}

/** Active drains past their deadline. */
export async function listExpiredDrains(db: Tx): Promise<DrainRow[]> {
  return await db
    .select()
    .from(drains)
    .where(and(eq(drains.status, "active"), lt(drains.deadlineAt, sql`now()`)));
}

export type DrainAtWork = DrainRow & { isHostLost: boolean };

/** Drains that have not ended. */
export async function listDrainsAtWork(db: Tx): Promise<DrainAtWork[]> {
  const rows = await db
    .select({ drain: drains, hostState: hosts.state })
    .from(drains)
    .innerJoin(hosts, eq(hosts.id, drains.hostId))
    .where(atWork)
    .orderBy(asc(drains.id));
  return rows.map(({ drain, hostState }) => ({ ...drain, isHostLost: hostState === "lost" }));
}

/**
 * Adds every sandbox that is on the host, or would return to it. A finished sandbox that is back
 * begins again.
 *
 * The bytes to copy are estimated: none for what is in the store, else the size of the newest
 * snapshot, with the sizes of memory and disk for what the snapshot lacks.
 *
 * The NOT EXISTS leaves open rows out before they can conflict: a conflict would lock them, in
 * another order than the statement that records their bytes.
 */
export async function listSandboxesToMove(
  db: Tx,
  { id, hostId }: Pick<DrainRow, "id" | "hostId">,
): Promise<void> {
  await db.execute(sql`
    INSERT INTO drain_sandboxes (drain_id, sandbox_id, bytes_total)
    SELECT drains.id, sandboxes.id, CASE
        WHEN newest.dropped_at IS NULL AND newest.store_key IS NOT NULL THEN 0
        WHEN sandboxes.settled_state = 'stopped' THEN sandboxes.disk_mib * ${MIB}
        WHEN newest.has_memory THEN newest.size_bytes
        ELSE sandboxes.memory_mib * ${MIB} + coalesce(newest.size_bytes, sandboxes.disk_mib * ${MIB}) END
    FROM drains, sandboxes LEFT JOIN LATERAL (
      SELECT * FROM snapshots WHERE snapshots.sandbox_id = sandboxes.id ORDER BY generation DESC LIMIT 1) newest ON true
    WHERE drains.id = ${id} AND drains.status = 'active' AND ${isResidentOn(hostId)} AND sandboxes.state NOT IN ('deleting', 'deleted')
      AND NOT EXISTS (SELECT 1 FROM drain_sandboxes item
        WHERE item.drain_id = drains.id AND item.sandbox_id = sandboxes.id AND item.ended_at IS NULL)
    FOR SHARE OF drains
    ON CONFLICT (drain_id, sandbox_id) DO UPDATE
    SET ended_at = NULL, outcome = NULL, operation_id = NULL, working_since = NULL, replication_asked_at = NULL,
      bytes_done = 0, bytes_total = EXCLUDED.bytes_total, is_estimate = true
    WHERE drain_sandboxes.ended_at IS NOT NULL`);
}

/** Open sandboxes that are due: first those with a slot, then those with the fewest failures. */
export async function listDrainSandboxes(
  db: Tx,
  drainId: number,
  limit: number,
): Promise<DrainSandboxRow[]> {
  const isDue = or(
    isNotNull(drainSandboxes.workingSince),
    isNull(drainSandboxes.retryAt),
    lt(drainSandboxes.retryAt, sql`now()`),
  );
  return await db
    .select()
    .from(drainSandboxes)
    .where(and(eq(drainSandboxes.drainId, drainId), isNull(drainSandboxes.endedAt), isDue))
    .orderBy(
      sql`${drainSandboxes.workingSince} IS NULL`,
      asc(drainSandboxes.attempts),
      asc(drainSandboxes.sandboxId),
    )
    .limit(limit);
}

/** Takes a slot for the sandbox, if one is free (DN1). */
export async function acquireSlot(
  db: Database,
  drainId: number,
  sandboxId: SandboxId,
): Promise<boolean> {
  return await db.transaction(async (tx) => {
    const [drain] = await tx.select().from(drains).where(eq(drains.id, drainId)).for("update");
    if (drain?.status !== "active") return false;
    const open = and(eq(drainSandboxes.drainId, drainId), isNull(drainSandboxes.endedAt));
    if (
      (await tx.$count(drainSandboxes, and(open, isNotNull(drainSandboxes.workingSince)))) >=
      drain.maxParallel
    )
      return false;
    const taken = await tx
      .update(drainSandboxes)
      .set({ workingSince: sql`now()`, progressedAt: sql`now()` })
      .where(
        and(open, eq(drainSandboxes.sandboxId, sandboxId), isNull(drainSandboxes.workingSince)),
      )
      .returning({ id: drainSandboxes.sandboxId });
    return taken.length === 1;
  });
}

export type DrainSandboxPatch = Partial<
  Omit<typeof drainSandboxes.$inferInsert, "drainId" | "sandboxId">
>;

/**
 * Decides about one sandbox under its locks (DN2, DN3), and stores the patch that `decide` returns.
 * Undefined: the sandbox is done, or the drain has ended.
 */
export async function withDrainSandbox<T>(
  db: Database,
  drainId: number,
  sandboxId: SandboxId,
  decide: (
    tx: Tx,
    drain: DrainRow,
    item: DrainSandboxRow,
    sandbox: SandboxRow,
  ) => Promise<{ patch: DrainSandboxPatch; next: T }>,
): Promise<T | undefined> {
  return await db.transaction(async (tx) => {
    const [sandbox] = await tx
      .select()
      .from(sandboxes)
      .where(eq(sandboxes.id, sandboxId))
      .for("no key update");
    const [drain] = await tx
      .select()
      .from(drains)
      .where(and(eq(drains.id, drainId), atWork))
      .for("share");
    const itsRow = and(
      eq(drainSandboxes.drainId, drainId),
      eq(drainSandboxes.sandboxId, sandboxId),
    );
    const [item] = await tx
      .select()
      .from(drainSandboxes)
      .where(and(itsRow, isNull(drainSandboxes.endedAt)))
      .for("update");
    if (drain === undefined || item === undefined || sandbox === undefined) return undefined;
    const decided = await decide(tx, drain, item, sandbox);
    if (Object.keys(decided.patch).length > 0)
      await tx.update(drainSandboxes).set(decided.patch).where(itsRow);
    return decided.next;
  });
}

/** Ends a drain whose host is empty, and cordons the host. True when the drain has ended. */
export async function finishDrain(db: Database, { id, hostId }: DrainRow): Promise<boolean> {
  return await db.transaction(async (tx) => {
    const host = await lockHost(tx, hostId);
    const open = await tx.$count(
      drainSandboxes,
      and(eq(drainSandboxes.drainId, id), isNull(drainSandboxes.endedAt)),
    );
    if (host === undefined || open > 0 || (await tx.$count(sandboxes, isResidentOn(hostId))) > 0)
      return false;
    const ended = await endWith(tx, id, "active", "done");
    if (ended)
      await moveHost(tx, { host, event: "drained", fact: "drained", requestedBy: DRAINER });
    return ended;
  });
}

/**
 * Ends an `undoing` drain once it has no sandbox left to resume. Sandboxes that the drain has not
 * touched stay as they are.
 */
export async function finishUndoing(db: Database, drain: DrainRow): Promise<boolean> {
  return await db.transaction(async (tx) => {
    const host = await lockHost(tx, drain.hostId);
    const open = and(eq(drainSandboxes.drainId, drain.id), isNull(drainSandboxes.endedAt));
    if (
      host === undefined ||
      (await tx.$count(drainSandboxes, and(open, eq(drainSandboxes.owesResume, true)))) > 0
    )
      return false;
    const ended = await endWith(tx, drain.id, "undoing", drain.endsAs ?? "aborted");
    if (!ended) return false;
    await tx
      .update(drainSandboxes)
      .set({ endedAt: sql`now()`, outcome: "returned", workingSince: null })
      .where(open);
    const standing = { from: host.state, to: host.state };
    await recordHostEvent(tx, {
      hostId: host.id,
      fact: "drain_undone",
      ...standing,
      requestedBy: DRAINER,
    });
    return true;
  });
}

/** Ends the drain of a host that will not return and has no sandboxes. */
export async function giveUpDrain(tx: Tx, hostId: HostId): Promise<void> {
  await tx
    .update(drains)
    .set({ status: "aborted", endedAt: sql`now()` })
    .where(and(eq(drains.hostId, hostId), atWork));
}

async function endWith(
  tx: Tx,
  id: number,
  from: DrainRow["status"],
  to: DrainRow["status"],
): Promise<boolean> {
  const rows = await tx
    .update(drains)
    .set({ status: to, endedAt: sql`now()` })
    .where(and(eq(drains.id, id), eq(drains.status, from)))
    .returning({ id: drains.id });
  return rows.length === 1;
}

/** Needs of a host's sandboxes on another host. Sandboxes with equal needs share an entry. */
export interface SandboxNeed {
  organizationId: number;
  imageSha256: string;
  region: string;
  vcpu: number;
  memoryMib: number;
  diskMib: number;
  placementLabels: Record<string, string>;
  antiAffinity: string | null;
  onHostLoss: SandboxRow["onHostLoss"];
  /** The sandbox runs: its memory is not in a snapshot yet. */
  runs: boolean;
  /** Fingerprint of the VMM and CPU that wrote the memory of a paused sandbox. */
  snapshotFingerprint: string | null;
  count: number;
}

export async function listSandboxNeeds(db: Tx, hostId: HostId): Promise<SandboxNeed[]> {
  const { settledState, state } = sandboxes;
  const runs = sql<boolean>`${settledState} IN ('running', 'creating')`;
  const snapshotFingerprint = sql<
    string | null
  >`CASE WHEN ${settledState} = 'paused' THEN ${snapshots.driverFingerprint} END`;
  const wanted = {
    organizationId: sandboxes.organizationId,
    imageSha256: sandboxes.imageSha256,
    region: sandboxes.region,
    vcpu: sandboxes.vcpu,
    memoryMib: sandboxes.memoryMib,
    diskMib: sandboxes.diskMib,
    placementLabels: sandboxes.placementLabels,
    antiAffinity: sandboxes.antiAffinity,
    onHostLoss: sandboxes.onHostLoss,
  };
  return await db
    .select({
      ...wanted,
      runs,
      snapshotFingerprint,
      count: sql<number>`count(DISTINCT ${sandboxes.id})::int`,
    })
    .from(sandboxes)
    .leftJoin(
      snapshots,
      and(
        eq(snapshots.sandboxId, sandboxes.id),
        isNull(snapshots.droppedAt),
        eq(snapshots.hasMemory, true),
      ),
    )
    .where(
      and(isResidentOn(hostId), ne(state, "deleting"), ne(state, "deleted"), ne(state, "error")),
    )
    .groupBy(...Object.values(wanted), runs, snapshotFingerprint);
}
