import type { HostId, OperationId, SandboxId } from "@torpor/contracts";
import { movedBy } from "@torpor/plans";
import {
  ENDED_STATUSES,
  EXECUTING_STATUSES,
  type OperationEvent,
  type OperationStatus,
} from "@torpor/state-machine";
import { and, eq, inArray, isNotNull, isNull, lt, or, sql } from "drizzle-orm";
import { Batches, withTimeLimit } from "@torpor/service";
import type { Database, Tx } from "../../database.ts";
import { isOneOf } from "../../literals.ts";
import { operations, sandboxes } from "../../schema.ts";

export type OperationRow = typeof operations.$inferSelect;

export async function findOperation(db: Tx, id: OperationId): Promise<OperationRow | undefined> {
  const [row] = await db.select().from(operations).where(eq(operations.id, id));
  return row;
}

type OperationEnd = Pick<OperationRow, "status" | "error" | "explain">;

/** How the operations ended, as far as a waiting client needs to know; undefined: still open. */
export async function findOperationEnds(
  db: Tx,
  ids: OperationId[],
): Promise<(OperationEnd | undefined)[]> {
  const { id, status, error, explain } = operations;
  const asked = sql`ARRAY(SELECT jsonb_array_elements_text(${JSON.stringify(ids)}::jsonb))`;
  const rows = await db
    .select({ id, status, error, explain })
    .from(operations)
    .where(and(sql`${id} = ANY(${asked})`, isOneOf(status, ...ENDED_STATUSES)));
  const ends = new Map(rows.map(({ id: ended, ...end }) => [ended, end]));
  return ids.map((one) => ends.get(one));
}

/** A query without a reply must not block the next batch. */
const LOOK_LIMIT_MS = 3_000;
const looks = new WeakMap<Database, Batches<OperationId, OperationEnd | undefined>>();

/** How one operation ended, read in a batch with others. */
export async function findOperationEnd(
  db: Database,
  id: OperationId,
): Promise<OperationEnd | undefined> {
  const run = (ids: OperationId[]) =>
    withTimeLimit(findOperationEnds(db, ids), LOOK_LIMIT_MS, "the look for ended operations");
  const known = looks.get(db) ?? new Batches({ run });
  looks.set(db, known);
  return await known.add(id);
}

/** The executing (or outcome_unknown) and the waiting operation of a sandbox. */
export async function findOpenOperations(
  db: Tx,
  sandboxId: SandboxId,
): Promise<{ executing?: OperationRow; waiting?: OperationRow }> {
  const rows = await db
    .select()
    .from(operations)
    .where(
      and(
        eq(operations.sandboxId, sandboxId),
        inArray(operations.status, ["waiting", ...EXECUTING_STATUSES]),
      ),
    );
  const executing = rows.find((row) => row.status !== "waiting");
  const waiting = rows.find((row) => row.status === "waiting");
  return {
    ...(executing === undefined ? {} : { executing }),
    ...(waiting === undefined ? {} : { waiting }),
  };
}

type OperationPatch = Partial<
  Pick<
    OperationRow,
    | "error"
    | "explain"
    | "timingsMs"
    | "hostId"
    | "originHostId"
    | "epoch"
    | "opSeq"
    | "startedAt"
    | "deadlineAt"
  >
>;

/**
 * Applies `event` to an operation if its status allows the move; undefined when it does not
 * (already there, or ended). Call it in the transaction of the sandbox's move.
 *
 * The sandbox's row is locked first, as in `acceptRequest`. Otherwise a request that replaces the
 * operation and a scheduler that begins it could deadlock.
 */
export async function moveOperation(
  tx: Tx,
  id: OperationId,
  event: OperationEvent,
  patch: OperationPatch = {},
  guard: { uncommittedOnly?: boolean } = {},
): Promise<OperationRow | undefined> {
  const { from, to } = movedBy(event);
  await tx.execute(
    sql`SELECT 1 FROM sandboxes WHERE id = (SELECT sandbox_id FROM operations WHERE id = ${id}) FOR NO KEY UPDATE`,
  );
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

export interface CommitQuestion {
  id: OperationId;
  sandboxId: SandboxId;
  hostId: HostId;
  epoch: number;
  opSeq: number;
}

/**
 * Commits the operations that may still pass their point of no return: executing, of this
 * incarnation, within the deadline, without a request to back out. Their incarnations are allowed
 * to run from then on. Idempotent: after the commit the result stays true, whatever the deadline.
 * Results are in the order of `asked`.
 */
export async function commitOperations(tx: Tx, asked: CommitQuestion[]): Promise<boolean[]> {
  const given = JSON.stringify(asked);
  const rows: Record<string, unknown>[] = await tx.execute(
    sql`SELECT commit_operations(${given}::jsonb) AS committed`,
  );
  const places = new Set((rows[0]?.["committed"] ?? []) as number[]);
  return asked.map((_, index) => places.has(index + 1));
}

const commits = new WeakMap<Database, Batches<CommitQuestion, boolean>>();

/** Commits one operation, in a batch with others. */
export async function commitOperation(db: Database, asked: CommitQuestion): Promise<boolean> {
  const known =
    commits.get(db) ??
    new Batches({ run: (all: CommitQuestion[]) => commitOperations(db, all), triesAlone: true });
  commits.set(db, known);
  return await known.add(asked);
}

/** Records why an operation still waits. */
export async function explainOperation(tx: Tx, id: OperationId, explain: unknown): Promise<void> {
  await tx
    .update(operations)
    .set({ explain })
    .where(and(eq(operations.id, id), eq(operations.status, "waiting")));
}

export interface SeenFetch {
  operationId: OperationId;
  bytesDone: number;
  bytesTotal: number;
}

/**
 * Waiting operations whose sandbox has nothing executing, oldest first: the intent was lost, or the
 * fleet was full.
 */
export async function listDrivableOperations(
  db: Tx,
  olderThanMs: number,
  limit: number,
): Promise<Pick<OperationRow, "id" | "sandboxId">[]> {
  return await db
    .select({ id: operations.id, sandboxId: operations.sandboxId })
    .from(operations)
    .where(
      and(
        isOneOf(operations.status, "waiting"),
        // The intent of a younger operation is still in flight.
        lt(operations.createdAt, sql`now() - ${`${olderThanMs} milliseconds`}::interval`),
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

/** Executing, committed operations whose host is lost: their outcome is unknown. */
export async function listContactlessOperations(db: Tx, limit: number): Promise<OperationRow[]> {
  const rows = await db
    .select({ operation: operations })
    .from(operations)
    .innerJoin(sandboxes, eq(sandboxes.id, operations.sandboxId))
    .where(
      and(isOneOf(operations.status, "executing"), isNotNull(operations.committedAt), onLostHost),
    )
    .limit(limit);
  return rows.map((row) => row.operation);
}

/**
 * Uncommitted operations of lost hosts, on sandboxes that were at rest and that another host can
 * take: they are in the store, or whole on the host that they were sent from.
 */
export async function listAbandoned(db: Tx, limit: number): Promise<OperationRow[]> {
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

/** Restricts a waiting operation to one host, and sets a new deadline. */
export async function pinOperation(
  tx: Tx,
  id: OperationId,
  hostId: HostId,
  deadlineMs: number,
): Promise<void> {
  await tx
    .update(operations)
    .set({
      pinnedHostId: hostId,
      deadlineAt: sql`now() + ${`${deadlineMs} milliseconds`}::interval`,
    })
    .where(and(eq(operations.id, id), eq(operations.status, "waiting")));
}
