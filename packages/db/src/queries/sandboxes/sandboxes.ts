import type { Cause, HostId, OperationId, SandboxId } from "@torpor/contracts";
import { planMoves } from "@torpor/plans";
import { isTombstoned, type StableState } from "@torpor/state-machine";
import {
  and,
  asc,
  desc,
  eq,
  getTableColumns,
  inArray,
  isNull,
  lt,
  type SQL,
  sql,
} from "drizzle-orm";
import type { Database, Tx } from "../../database.ts";
import { decide } from "../../decide.ts";
import { isOneOf } from "../../literals.ts";
import { hosts, operations, sandboxes, snapshots } from "../../schema.ts";
import type { OutboxRow } from "../outbox/outbox.ts";
import type { Change, SandboxRow } from "./sandbox-row.ts";
import type { SandboxRows } from "./views.ts";

/** The stored row, whatever its state. */
export async function findSandboxRow(db: Tx, id: SandboxId): Promise<SandboxRow | undefined> {
  const [row] = await db.select().from(sandboxes).where(eq(sandboxes.id, id));
  return row;
}

/**
 * A sandbox as the API shows it: the row, its host, the operation in flight, and where its snapshot
 * is.
 */
export interface SandboxView {
  sandbox: SandboxRow;
  host?: {
    id: HostId;
    dataPlaneUrl: string;
    ticketKey: string | null;
    state: string;
    /** Nothing is sent to a revoked host. */
    isRevoked: boolean;
  };
  operation?: { id: OperationId; kind: string; status: string };
  /** The newest snapshot that was not dropped. */
  snapshot?: { generation: number; sizeBytes: number };
  snapshotStoreKey?: string | null;
  /** Why the snapshot will not reach the store by itself. */
  snapshotStoreError?: Cause | null;
}

const view = {
  sandbox: getTableColumns(sandboxes),
  hostId: hosts.id,
  dataPlaneUrl: hosts.dataPlaneUrl,
  ticketKey: hosts.ticketKey,
  hostRevokedAt: hosts.revokedAt,
  hostState: hosts.state,
  operationId: operations.id,
  operationKind: operations.kind,
  operationStatus: operations.status,
  snapshotGeneration: snapshots.generation,
  snapshotSizeBytes: snapshots.sizeBytes,
  snapshotStoreKey: snapshots.storeKey,
  snapshotStoreError: snapshots.storeError,
};

function viewQuery(db: Tx) {
  return db
    .select(view)
    .from(sandboxes)
    .leftJoin(hosts, eq(hosts.id, sandboxes.hostId))
    .leftJoin(
      operations,
      and(
        eq(operations.sandboxId, sandboxes.id),
        isOneOf(operations.status, "executing", "outcome_unknown"),
      ),
    )
    .leftJoin(
      snapshots,
      and(
        eq(snapshots.sandboxId, sandboxes.id),
        isNull(snapshots.droppedAt),
        sql`${snapshots.generation} = (SELECT max(newest.generation) FROM snapshots newest WHERE newest.sandbox_id = ${sandboxes.id} AND newest.dropped_at IS NULL)`,
      ),
    );
}

type ViewRow = Awaited<ReturnType<typeof viewQuery>>[number];

function toView(row: ViewRow): SandboxView {
  return {
    sandbox: row.sandbox,
    ...(row.hostId === null
      ? {}
      : {
          host: {
            id: row.hostId,
            dataPlaneUrl: row.dataPlaneUrl ?? "",
            ticketKey: row.ticketKey,
            state: row.hostState ?? "",
            isRevoked: row.hostRevokedAt !== null,
          },
        }),
    ...(row.operationId === null
      ? {}
      : {
          operation: {
            id: row.operationId,
            kind: row.operationKind ?? "",
            status: row.operationStatus ?? "",
          },
        }),
    ...(row.snapshotGeneration === null
      ? {}
      : {
          snapshot: { generation: row.snapshotGeneration, sizeBytes: row.snapshotSizeBytes ?? 0 },
          snapshotStoreKey: row.snapshotStoreKey,
          snapshotStoreError: row.snapshotStoreError,
        }),
  };
}

export const isAlive = sql`${sandboxes.state} NOT IN ('deleting', 'deleted')`;

/**
 * Queries that every request runs. They are prepared, because building the SQL text takes longer
 * than the rest of the request's work.
 */
function prepareViews(db: Tx) {
  const { id, organizationId, edgeAddress } = sandboxes;
  const isGiven = (column: typeof id | typeof organizationId | typeof edgeAddress) =>
    eq(column, sql.placeholder(column.name));
  const prepared = (...columns: Parameters<typeof isGiven>[0][]) =>
    viewQuery(db)
      .where(and(...columns.map(isGiven), isAlive))
      .prepare("view");
  return {
    ofOrganization: prepared(id, organizationId),
    byAddress: prepared(edgeAddress),
    byId: prepared(id),
  };
}

const views = new WeakMap<Tx, ReturnType<typeof prepareViews>>();

async function findView(
  db: Tx,
  by: keyof ReturnType<typeof prepareViews>,
  given: Record<string, unknown>,
): Promise<SandboxView | undefined> {
  const prepared = views.get(db) ?? prepareViews(db);
  views.set(db, prepared);
  const [row] = await prepared[by].execute(given);
  return row === undefined ? undefined : toView(row);
}

/** Undefined when the sandbox is unknown, deleted, or another organization's. */
export async function findSandbox(
  db: Tx,
  id: SandboxId,
  organizationId: number,
): Promise<SandboxView | undefined> {
  return await findView(db, "ofOrganization", { id, organization_id: organizationId });
}

/** For the edge, which knows the sandbox's address and checks the token itself. */
export async function findSandboxByEdgeAddress(
  db: Tx,
  edgeAddress: string,
): Promise<SandboxView | undefined> {
  return await findView(db, "byAddress", { edge_address: edgeAddress });
}

/** Like findSandboxByEdgeAddress, by id. */
export async function findLivingSandbox(db: Tx, id: SandboxId): Promise<SandboxView | undefined> {
  return await findView(db, "byId", { id });
}

export interface ListFilter {
  organizationId: number;
  limit: number;
  /** Settled states as the API shows them. */
  states?: StableState[] | undefined;
  /** Pairs that the sandbox's metadata must contain. */
  metadata?: Record<string, string> | undefined;
  region?: string | undefined;
  /** Id of the last sandbox of the previous page. */
  afterId?: SandboxId | undefined;
}

/** The index holds only sandboxes with metadata. */
function hasMetadata(wanted: Record<string, string> | undefined): SQL | undefined {
  if (wanted === undefined || Object.keys(wanted).length === 0) return undefined;
  return sql`${sandboxes.metadata} @> ${JSON.stringify(wanted)}::jsonb AND ${sandboxes.metadata} <> '{}'`;
}

/** Newest first; `hasMore`: another page follows. */
export async function listSandboxes(
  db: Tx,
  filter: ListFilter,
): Promise<{ views: SandboxView[]; hasMore: boolean }> {
  const rows = await viewQuery(db)
    .where(
      and(
        eq(sandboxes.organizationId, filter.organizationId),
        isAlive,
        filter.states === undefined ? undefined : inArray(sandboxes.settledState, filter.states),
        hasMetadata(filter.metadata),
        filter.region === undefined ? undefined : eq(sandboxes.region, filter.region),
        filter.afterId === undefined ? undefined : lt(sandboxes.id, filter.afterId),
      ),
    )
    .orderBy(desc(sandboxes.id))
    .limit(filter.limit + 1);
  return { views: rows.slice(0, filter.limit).map(toView), hasMore: rows.length > filter.limit };
}

type Changed = { sandbox: SandboxRows["sandbox"]; messages: OutboxRow[] };

/**
 * Changes a living sandbox without a move to another state. `change` is called again after a lost
 * race, and may return undefined to change nothing. Undefined: nothing changed, or no such sandbox.
 */
export async function changeSandbox(
  db: Database,
  id: SandboxId,
  organizationId: number,
  change: (sandbox: SandboxRows["sandbox"]) => Change | undefined,
): Promise<Changed | undefined> {
  const decided = await decide(
    db,
    { sandboxId: id },
    {
      decideFrom: (view) => {
        const { sandbox } = view ?? {};
        if (
          sandbox === undefined ||
          sandbox.organizationId !== organizationId ||
          isTombstoned(sandbox.state)
        )
          return { answer: undefined };
        const given = change(sandbox);
        if (given === undefined) return { answer: undefined };
        const plan = planMoves(sandbox, [{ to: sandbox.state, ...given }]);
        return { plan, answer: { ...sandbox, ...plan.after } };
      },
    },
  );
  if (decided === "gave_up")
    throw new Error(`sandbox ${id} could not be changed: it kept changing meanwhile`);
  const { answer: sandbox, applied } = decided;
  if (sandbox === undefined || applied?.kind !== "applied") return undefined;
  return { sandbox: { ...sandbox, updatedAt: applied.at }, messages: applied.messages };
}

/**
 * Sets a new timeout, counted from now. While the sandbox is at rest, the clock is stopped and the
 * new timeout is what is left.
 */
export async function setTimeoutSeconds(
  db: Database,
  id: SandboxId,
  organizationId: number,
  timeoutSeconds: number,
): Promise<Changed | undefined> {
  return await changeSandbox(db, id, organizationId, (sandbox) => {
    const isAtRest = sandbox.settledState === "paused" || sandbox.settledState === "stopped";
    const leftMs = timeoutSeconds * 1000;
    const expiresAt = isAtRest ? null : new Date(Date.now() + leftMs);
    return {
      fact: "timeout_set",
      patch: { timeoutSeconds, expiresAt, timeoutLeftMs: isAtRest ? leftMs : null },
    };
  });
}

/** Invalidates all tokens of the sandbox. */
export async function revokeTokens(
  db: Database,
  id: SandboxId,
  organizationId: number,
): Promise<Changed | undefined> {
  return await changeSandbox(db, id, organizationId, ({ tokenGeneration }) => ({
    fact: "tokens_revoked",
    patch: { tokenGeneration: tokenGeneration + 1 },
  }));
}

/** Living sandboxes whose timeout has run out, most overdue first. */
export async function listExpiredSandboxes(db: Tx, limit: number): Promise<SandboxRow[]> {
  return await db
    .select()
    .from(sandboxes)
    .where(and(isAlive, lt(sandboxes.expiresAt, sql`now()`)))
    .orderBy(asc(sandboxes.expiresAt))
    .limit(limit);
}
