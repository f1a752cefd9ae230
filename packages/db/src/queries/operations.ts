import { ENDED_STATUSES, EXECUTING_STATUSES, type OperationEvent, OPERATION_TABLE, type OperationStatus } from "@torpor/state-machine";
import { and, eq, gt, inArray, isNotNull, isNull, lt, or, sql } from "drizzle-orm";
import type { Tx } from "../client.ts";
import { isOneOf } from "../literals.ts";
import { operations, sandboxes } from "../schema.ts";

export type OperationRow = typeof operations.$inferSelect;

export async function findOperation(db: Tx, id: string): Promise<OperationRow | undefined> {
  const [row] = await db.select().from(operations).where(eq(operations.id, id));
  return row;
}

/** The executing (or outcome_unknown) and the waiting operation of a sandbox. */
export async function findOpenOperations(db: Tx, sandboxId: string): Promise<{ executing?: OperationRow; waiting?: OperationRow }> {
  const rows = await db
    .select()
    .from(operations)
    .where(and(eq(operations.sandboxId, sandboxId), inArray(operations.status, ["waiting", ...EXECUTING_STATUSES])));
  const executing = rows.find((row) => row.status !== "waiting");
  const waiting = rows.find((row) => row.status === "waiting");
  return { ...(executing === undefined ? {} : { executing }), ...(waiting === undefined ? {} : { waiting }) };
}

type OperationPatch = Partial<
  Pick<OperationRow, "error" | "explain" | "timingsMs" | "hostId" | "originHostId" | "epoch" | "opSeq" | "startedAt" | "deadlineAt">
>;

/** The statuses in which `event` moves an operation to another, from the table. */
function movedBy(event: OperationEvent): { from: OperationStatus[]; to: OperationStatus } {
  const cells = Object.entries(OPERATION_TABLE).filter(([, row]) => row[event] !== "stay" && row[event] !== "refuse");
  const to = cells[0]?.[1][event];
  if (to === undefined || to === "stay" || to === "refuse") throw new Error(`no operation status is left by ${event}`);
  return { from: cells.map(([status]) => status as OperationStatus), to };
}

/**
 * Applies `event` to an operation if its status allows a move; undefined when it does not (already there, or ended). Call it in the transaction of the sandbox's move.
 *
 * The row of the sandbox is locked first, as `acceptRequest` does: a request that replaces the operation and a scheduler that begins it would otherwise each hold what the other wants.
 */
export async function moveOperation(
  tx: Tx,
  id: string,
  event: OperationEvent,
  patch: OperationPatch = {},
  guard: { uncommittedOnly?: boolean } = {},
): Promise<OperationRow | undefined> {
  const { from, to } = movedBy(event);
  await tx.execute(sql`SELECT 1 FROM sandboxes WHERE id = (SELECT sandbox_id FROM operations WHERE id = ${id}) FOR NO KEY UPDATE`);
  const ends = (ENDED_STATUSES as readonly OperationStatus[]).includes(to);
  const [row] = await tx
    .update(operations)
    .set({ ...patch, status: to, ...(ends ? { endedAt: sql`now()` } : {}) })
    .where(
      and(
        eq(operations.id, id),
        inArray(operations.status, from),
        guard.uncommittedOnly === true ? isNull(operations.committedAt) : undefined,
      ),
    )
    .returning();
  return row;
}

/**
 * Lets an operation pass its point of no return, if it still may: executing, of this incarnation, unexpired, not asked to back out. Idempotent: once committed, the answer
 * stays yes, whatever the deadline.
 */
export async function commitOperation(
  tx: Tx,
  commit: { id: string; sandboxId: string; hostId: string; epoch: number; opSeq: number },
): Promise<boolean> {
  const rows = await tx
    .update(operations)
    .set({ committedAt: sql`coalesce(${operations.committedAt}, now())` })
    .where(
      and(
        eq(operations.id, commit.id),
        eq(operations.sandboxId, commit.sandboxId),
        eq(operations.hostId, commit.hostId),
        eq(operations.epoch, commit.epoch),
        eq(operations.opSeq, commit.opSeq),
        inArray(operations.status, [...EXECUTING_STATUSES]),
        or(isNotNull(operations.committedAt), and(gt(operations.deadlineAt, sql`now()`), isNull(operations.cancelRequestedAt))),
      ),
    )
    .returning({ id: operations.id });
  return rows.length === 1;
}

/** Asks an executing, uncommitted operation to back out. False when it is too late or it is not executing. */
export async function requestCancel(tx: Tx, id: string): Promise<boolean> {
  const rows = await tx
    .update(operations)
    .set({ cancelRequestedAt: sql`coalesce(${operations.cancelRequestedAt}, now())` })
    .where(and(eq(operations.id, id), inArray(operations.status, [...EXECUTING_STATUSES]), isNull(operations.committedAt)))
    .returning({ id: operations.id });
  return rows.length === 1;
}

/**
 * Somebody else wants the same, in any case: what still waits is carried out whether the sandbox is idle or not, on any host, and as fast as it goes. `takenOverBy`: it is theirs from now
 * on, and whoever asked for it first takes it back no more.
 */
export async function joinOperation(tx: Tx, operation: OperationRow, takenOverBy?: string): Promise<OperationRow> {
  const { status, onlyIfIdleForMs, pinnedHostId, maxBytesPerSecond } = operation;
  const isBound = status === "waiting" && [onlyIfIdleForMs, pinnedHostId, maxBytesPerSecond].some((bound) => bound !== null);
  if (!isBound && takenOverBy === undefined) return operation;
  const [row] = await tx
    .update(operations)
    .set({
      ...(isBound ? { onlyIfIdleForMs: null, pinnedHostId: null, maxBytesPerSecond: null } : {}),
      ...(takenOverBy === undefined ? {} : { requestedBy: takenOverBy }),
    })
    .where(and(eq(operations.id, operation.id), eq(operations.status, operation.status)))
    .returning();
  return row ?? operation;
}

/** Notes why an operation still waits. */
export async function explainOperation(tx: Tx, id: string, explain: unknown): Promise<void> {
  await tx
    .update(operations)
    .set({ explain })
    .where(and(eq(operations.id, id), eq(operations.status, "waiting")));
}

export interface SeenFetch {
  operationId: string;
  bytesDone: number;
  bytesTotal: number;
}

/** Waiting operations whose sandbox has nothing executing, oldest first: what a lost intent or a full fleet left behind. */
export async function listDrivableOperations(db: Tx, limit: number): Promise<Pick<OperationRow, "id" | "sandboxId">[]> {
  return await db
    .select({ id: operations.id, sandboxId: operations.sandboxId })
    .from(operations)
    .where(
      and(
        isOneOf(operations.status, "waiting"),
        // A delete does not wait for what executes: it cancels or follows it.
        or(
          eq(operations.kind, "delete"),
          sql`NOT EXISTS (SELECT 1 FROM operations other WHERE other.sandbox_id = ${operations.sandboxId} AND other.status IN ('executing', 'outcome_unknown'))`,
        ),
      ),
    )
    .orderBy(operations.createdAt)
    .limit(limit);
}

/** Open operations past their deadline that have not committed. */
export async function listExpiredOperations(db: Tx, limit: number): Promise<OperationRow[]> {
  return await db
    .select()
    .from(operations)
    .where(
      and(
        isOneOf(operations.status, "waiting", ...EXECUTING_STATUSES),
        isNull(operations.committedAt),
        lt(operations.deadlineAt, sql`now()`),
      ),
    )
    .orderBy(operations.deadlineAt)
    .limit(limit);
}

const onLostHost = sql`EXISTS (SELECT 1 FROM hosts WHERE hosts.id = ${sandboxes.hostId} AND hosts.state = 'lost')`;

/** Executing, committed operations whose host is lost: nobody can say how they ended. */
export async function listContactlessOperations(db: Tx, limit: number): Promise<OperationRow[]> {
  const rows = await db
    .select({ operation: operations })
    .from(operations)
    .innerJoin(sandboxes, eq(sandboxes.id, operations.sandboxId))
    .where(and(isOneOf(operations.status, "executing"), isNotNull(operations.committedAt), onLostHost))
    .limit(limit);
  return rows.map((row) => row.operation);
}

/**
 * What a lost host was told to do and has not committed, with sandboxes that stood still and that another host can do it with: they are in the store, or lie whole on the host that they were sent
 * from.
 */
export async function listStranded(db: Tx, limit: number): Promise<OperationRow[]> {
  const rows = await db
    .select({ operation: operations })
    .from(operations)
    .innerJoin(sandboxes, eq(sandboxes.id, operations.sandboxId))
    .where(
      and(
        isOneOf(operations.status, "executing"),
        inArray(operations.kind, ["resume", "stop", "start"]),
        isNull(operations.committedAt),
        onLostHost,
        or(
          isNotNull(sandboxes.originHostId),
          sql`EXISTS (SELECT 1 FROM snapshots WHERE snapshots.sandbox_id = ${sandboxes.id} AND dropped_at IS NULL AND store_key IS NOT NULL)`,
        ),
      ),
    )
    .limit(limit);
  return rows.map((row) => row.operation);
}

/** A waiting operation may be placed on that host alone from now on, with so much time. */
export async function pinOperation(tx: Tx, id: string, hostId: string, deadlineMs: number): Promise<void> {
  await tx
    .update(operations)
    .set({ pinnedHostId: hostId, deadlineAt: sql`now() + ${`${deadlineMs} milliseconds`}::interval` })
    .where(and(eq(operations.id, id), eq(operations.status, "waiting")));
}
