/**
 * The only way to change a host's state: by the state table, on the locked row, with an event. Also
 * the history of hosts.
 */
import type { Cause, HostEventType, HostId } from "@torpor/contracts";
import { type HostEvent, transitionHost } from "@torpor/state-machine";
import { and, asc, desc, eq, gt, lt, lte, notLike, type SQL, sql } from "drizzle-orm";
import type { PgUpdateSetSource } from "drizzle-orm/pg-core";
import type { Database, Tx } from "../../database.ts";
import { hostEvents, hosts } from "../../schema.ts";

export type HostRow = typeof hosts.$inferSelect;
export type HostEventRow = typeof hostEvents.$inferSelect;

export interface HostMove {
  /** The row, as locked by this transaction. */
  host: HostRow;
  event: HostEvent;
  /** The type of the event in the host's history. */
  fact: HostEventType;
  requestedBy: string;
  cause?: Cause | undefined;
  patch?: PgUpdateSetSource<typeof hosts>;
}

export type HostMoved =
  | { kind: "moved"; host: HostRow }
  /** The host was already in that state; the patch was applied. */
  | { kind: "stay"; host: HostRow }
  | { kind: "refused"; host: HostRow };

export async function moveHost(tx: Tx, move: HostMove): Promise<HostMoved> {
  const { host } = move;
  const transition = transitionHost(
    { state: host.state, before: host.stateBeforeLost },
    move.event,
  );
  if (transition.kind === "refuse") return { kind: "refused", host };
  const to = transition.kind === "move" ? transition.to : host.state;
  const standing = { state: to, stateBeforeLost: transition.before };
  const [after] = await tx
    .update(hosts)
    .set({ ...move.patch, ...standing })
    .where(eq(hosts.id, host.id))
    .returning();
  if (after === undefined) throw new Error(`host ${host.id} is not there`);
  if (transition.kind === "stay") return { kind: "stay", host: after };
  await recordHostEvent(tx, {
    hostId: host.id,
    fact: move.fact,
    from: host.state,
    to,
    requestedBy: move.requestedBy,
    cause: move.cause,
  });
  return { kind: "moved", host: after };
}

/** Records an event, also one that does not change the state. */
export async function recordHostEvent(
  tx: Tx,
  event: {
    hostId: HostId;
    fact: HostEventType;
    from: string | null;
    to: string;
    requestedBy: string;
    cause?: Cause | undefined;
  },
): Promise<void> {
  const { hostId, fact, from, to, requestedBy, cause } = event;
  await tx
    .insert(hostEvents)
    .values({ hostId, fact, fromState: from, toState: to, requestedBy, cause: cause ?? null });
}

/** Locks the host's row until the end of the transaction. */
export async function lockHost(tx: Tx, hostId: HostId): Promise<HostRow | undefined> {
  const [row] = await tx.select().from(hosts).where(eq(hosts.id, hostId)).for("update");
  return row;
}

/** Events after `afterId`, oldest first; without `afterId`, the newest ones in the same order. */
export async function listHostEvents(
  db: Tx,
  hostId: HostId,
  limit: number,
  afterId?: number,
): Promise<HostEventRow[]> {
  if (afterId === undefined) {
    const newest = await db
      .select()
      .from(hostEvents)
      .where(eq(hostEvents.hostId, hostId))
      .orderBy(desc(hostEvents.id))
      .limit(limit);
    return newest.toReversed();
  }
  return await db
    .select()
    .from(hostEvents)
    .where(and(eq(hostEvents.hostId, hostId), gt(hostEvents.id, afterId)))
    .orderBy(asc(hostEvents.id))
    .limit(limit);
}

/** Per host, without operators' requests: a host can cause any number of events. */
const MAX_EVENTS_OF_ITS_OWN = 5_000;
const MAX_PRUNED = 10_000;

/**
 * Deletes events older than `keptMs`, and a host's own events beyond the newest ones. Returns how
 * many.
 */
export async function pruneHostEvents(db: Database, keptMs: number): Promise<number> {
  const isOld = lt(hostEvents.occurredAt, sql`now() - ${`${keptMs} milliseconds`}::interval`);
  let forgotten = await pruneSome(db, isOld);
  const isItsOwn = notLike(hostEvents.requestedBy, "api-key:%");
  const beyond = db
    .select({ lastId: hostEvents.id })
    .from(hostEvents)
    .where(and(eq(hostEvents.hostId, hosts.id), isItsOwn))
    .orderBy(desc(hostEvents.id))
    .offset(MAX_EVENTS_OF_ITS_OWN)
    .limit(1)
    .as("beyond");
  for (const { hostId, lastId } of await db
    .select({ hostId: hosts.id, lastId: beyond.lastId })
    .from(hosts)
    .crossJoinLateral(beyond)) {
    const isBeyond = and(eq(hostEvents.hostId, hostId), isItsOwn, lte(hostEvents.id, lastId));
    forgotten += await pruneSome(db, isBeyond);
  }
  return forgotten;
}

/** A statement over the time limit would always fail, so the next round deletes the rest. */
async function pruneSome(db: Database, which: SQL | undefined): Promise<number> {
  const some = db.select({ id: hostEvents.id }).from(hostEvents).where(which).limit(MAX_PRUNED);
  return (
    await db
      .delete(hostEvents)
      .where(sql`${hostEvents.id} = ANY(ARRAY(${some}))`)
      .returning({ id: hostEvents.id })
  ).length;
}
