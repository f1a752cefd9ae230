/**
 * Accepting intents: what the gateway writes. It inserts sandboxes and operations and announces them through the outbox; it moves no sandbox from one state to another.
 *
 * Requests of one sandbox are judged one at a time, under a lock on its row, so that concurrent identical intents join (S31) and different ones see each other.
 */
import { type Intent, newOperationId, type SandboxEventMessage, subjects } from "@torpor/contracts";
import { admit, type OperationKind, type SandboxRequest, type SettledState } from "@torpor/state-machine";
import { and, eq, sql } from "drizzle-orm";
import type { Database, Tx } from "../client.ts";
import { operations, sandboxes, sandboxEvents } from "../schema.ts";
import { constraintName, inTransaction, sqlState, UNIQUE_VIOLATION } from "../transaction.ts";
import { DRAINER, keepPaused } from "./drains.ts";
import { forgetRestore } from "./host-loss.ts";
import { insertOutbox, type SandboxRow } from "./move-sandbox.ts";
import { findOpenOperations, joinOperation, moveOperation, type OperationRow, requestCancel } from "./operations.ts";
import { claimQuotas, type QuotaClaim, type QuotaRefusal, type QuotaStanding } from "./quotas.ts";

export interface Requester {
  organizationId: number;
  /** `api-key:<id>` or `system:<reconciler>`. */
  requestedBy: string;
  idempotencyKey?: string | undefined;
  /** Digest of method, path and body; required with a key. */
  requestSha256?: string | undefined;
  traceId?: string | undefined;
  /** Time limit of the operation, from now. */
  deadlineMs: number;
  /** Of a pause: only if nothing has used the sandbox for so long. */
  onlyIfIdleForMs?: number | undefined;
  /** Of a resume: on this host or not at all. */
  pinnedHostId?: string | undefined;
  /** Of the copying between hosts and the store that it brings about. */
  maxBytesPerSecond?: number | undefined;
  /** The system saves what a user has, or gives it back: no quota stands in its way. */
  exemptFromQuotas?: boolean | undefined;
}

export interface AcceptedOperation {
  kind: "accepted";
  operation: OperationRow;
  /** False when it joined an operation that was there already. */
  isNew: boolean;
  outboxIds: number[];
  /** With the operation counted; undefined: the organization has none, or nothing was counted. */
  quotas?: QuotaStanding | undefined;
}

export type AcceptCreate = AcceptedOperation | QuotaRefusal | { kind: "key_reused" } | { kind: "address_taken" };

type NewSandbox = Pick<
  typeof sandboxes.$inferInsert,
  | "id"
  | "templateId"
  | "templateName"
  | "imageSha256"
  | "region"
  | "vcpu"
  | "memoryMib"
  | "diskMib"
  | "internetAccess"
  | "envVars"
  | "envVarsSealed"
  | "metadata"
  | "timeoutSeconds"
  | "autoPauseIdleSeconds"
  | "autoResume"
  | "previewAccess"
  | "previewHost"
  | "placementLabels"
  | "antiAffinity"
  | "onHostLoss"
  | "edgeAddress"
>;

/** Inserts a sandbox in `creating` with its create operation. `address_taken`: choose another edge address and call again. */
export async function acceptCreate(db: Database, sandbox: NewSandbox, requester: Requester): Promise<AcceptCreate> {
  try {
    return await db.transaction(async (tx) => {
      const repeat = await findRepeat(tx, requester);
      if (repeat !== undefined) return repeat;
      const claim = await claimFor(tx, "create", sandbox, requester);
      // While this one waited for the quotas, the one that it repeats may have used them.
      if (claim.kind === "quota_exceeded") return (await findRepeat(tx, requester)) ?? claim;
      const [row] = await tx
        .insert(sandboxes)
        .values({ ...sandbox, organizationId: requester.organizationId, state: "creating", settledState: "creating", lastSeq: 1 })
        .returning();
      if (row === undefined) throw new Error("the inserted sandbox was not returned");
      const operation = await insertOperation(tx, row.id, "create", requester);
      await tx.insert(sandboxEvents).values({
        sandboxId: row.id,
        seq: 1,
        fact: "accepted",
        fromState: null,
        toState: "creating",
        generation: row.generation,
        epoch: 0,
        operationId: operation.id,
      });
      const event: SandboxEventMessage = {
        type: "sandbox_event",
        version: 1,
        sandboxId: row.id,
        seq: 1,
        fact: "accepted",
        from: null,
        to: "creating",
        generation: row.generation,
        epoch: 0,
        operationId: operation.id,
        operationStatus: operation.status,
        occurredAt: row.createdAt.toISOString(),
      };
      const outboxIds = await insertOutbox(tx, [
        { subject: subjects.sandboxEvent(row.id, "accepted"), payload: event },
        intentMessage(operation),
      ]);
      return { kind: "accepted", operation, isNew: true, outboxIds, quotas: claim.quotas } as const;
    });
  } catch (error) {
    if (sqlState(error) !== UNIQUE_VIOLATION) throw error;
    if (constraintName(error) === "sandboxes_edge_address") return { kind: "address_taken" };
    // Two requests with one key raced: the other one is committed now.
    const repeat = constraintName(error) === "operations_idempotency" ? await findRepeat(db, requester) : undefined;
    if (repeat !== undefined) return repeat;
    throw error;
  }
}

export type AcceptRequest =
  | AcceptedOperation
  | { kind: "satisfied"; state: SettledState }
  | { kind: "conflict"; current: SettledState; allowed: SandboxRequest[] }
  | { kind: "blocked"; current: SettledState; by: { id: string; kind: OperationKind } }
  | { kind: "not_found" }
  | { kind: "key_reused" }
  | QuotaRefusal;

/** Judges `request` against the end of the sandbox's queue (architecture.md 3) and queues an operation where one is needed. */
export async function acceptRequest(db: Tx, sandboxId: string, request: SandboxRequest, requester: Requester): Promise<AcceptRequest> {
  try {
    return await inTransaction<AcceptRequest>(db, async (tx) => {
      const repeat = await findRepeat(tx, requester);
      return repeat ?? (await acceptWithin(tx, sandboxId, request, requester));
    });
  } catch (error) {
    if (sqlState(error) === UNIQUE_VIOLATION && constraintName(error) === "operations_idempotency") {
      const repeat = await findRepeat(db, requester);
      if (repeat !== undefined) return repeat;
    }
    throw error;
  }
}

/** The same, as part of a transaction that changes more. */
export async function acceptWithin(tx: Tx, sandboxId: string, request: SandboxRequest, requester: Requester): Promise<AcceptRequest> {
  const sandbox = await lockSandbox(tx, sandboxId, requester.organizationId);
  return sandbox === undefined ? { kind: "not_found" } : await judge(tx, sandbox, request, requester);
}

async function judge(tx: Tx, sandbox: SandboxRow, request: SandboxRequest, requester: Requester): Promise<AcceptRequest> {
  const { executing, waiting } = await findOpenOperations(tx, sandbox.id);
  const admission = admit(
    {
      state: sandbox.state,
      settled: sandbox.settledState,
      ...(executing === undefined
        ? {}
        : {
            executing: {
              id: executing.id,
              kind: executing.kind,
              committed: executing.committedAt !== null,
              cancelRequested: executing.cancelRequestedAt !== null,
            },
          }),
      ...(waiting === undefined ? {} : { waiting: { id: waiting.id, kind: waiting.kind, yields: waiting.requestedBy === DRAINER } }),
    },
    request,
  );
  if (admission.kind === "gone") return { kind: "not_found" };
  if (admission.kind === "conflict" || admission.kind === "blocked") return admission;
  // Before anything is written: what is refused has done nothing.
  const claim =
    admission.kind === "accept" ? await claimFor(tx, request, sandbox, requester, admission.supersedes !== undefined) : undefined;
  if (claim?.kind === "quota_exceeded") return claim;
  const isUnconditional = requester.onlyIfIdleForMs === undefined;
  // Whether it joins, is there already or is new: from now on it stands still because somebody wants it to.
  if (request === "pause" && isUnconditional) await keepPaused(tx, sandbox.id);
  if ((request === "pause" || request === "stop") && isUnconditional) await forgetRestore(tx, sandbox.id);
  if (admission.supersedes !== undefined) {
    const error = { code: "OPERATION_SUPERSEDED", message: `The operation was replaced by a later ${request} before it began.` };
    await moveOperation(tx, admission.supersedes, "supersede", { error });
  }
  switch (admission.kind) {
    case "satisfied":
      return { kind: "satisfied", state: admission.state };
    case "join": {
      const joined = executing?.id === admission.operationId ? executing : waiting;
      if (joined === undefined) throw new Error(`admission joins operation ${admission.operationId}, which is not open`);
      const isTakenOver = joined.requestedBy === DRAINER && requester.requestedBy !== DRAINER;
      const operation = isUnconditional ? await joinOperation(tx, joined, isTakenOver ? requester.requestedBy : undefined) : joined;
      return { kind: "accepted", operation, isNew: false, outboxIds: [] };
    }
    case "accept": {
      if (admission.cancels !== undefined) await requestCancel(tx, admission.cancels);
      const operation = await insertOperation(tx, sandbox.id, request, requester);
      return {
        kind: "accepted",
        operation,
        isNew: true,
        outboxIds: await insertOutbox(tx, [intentMessage(operation)]),
        quotas: claim?.quotas,
      };
    }
  }
}

async function claimFor(
  tx: Tx,
  kind: OperationKind,
  sandbox: Pick<NewSandbox, "id" | "vcpu" | "memoryMib" | "diskMib">,
  { organizationId, exemptFromQuotas }: Requester,
  supersedes = false,
): Promise<QuotaClaim> {
  if (exemptFromQuotas === true) return { kind: "granted", quotas: undefined };
  const { id: sandboxId, ...resources } = sandbox;
  return await claimQuotas(tx, { organizationId, kind, sandboxId, resources, supersedes });
}

async function lockSandbox(tx: Tx, sandboxId: string, organizationId: number): Promise<SandboxRow | undefined> {
  const [row] = await tx
    .select()
    .from(sandboxes)
    .where(and(eq(sandboxes.id, sandboxId), eq(sandboxes.organizationId, organizationId)))
    .for("no key update");
  return row;
}

async function insertOperation(tx: Tx, sandboxId: string, kind: OperationKind, requester: Requester): Promise<OperationRow> {
  const [row] = await tx
    .insert(operations)
    .values({
      id: newOperationId(),
      sandboxId,
      organizationId: requester.organizationId,
      kind,
      status: "waiting",
      idempotencyKey: requester.idempotencyKey ?? null,
      requestSha256: requester.requestSha256 ?? null,
      requestedBy: requester.requestedBy,
      onlyIfIdleForMs: requester.onlyIfIdleForMs ?? null,
      pinnedHostId: requester.pinnedHostId ?? null,
      maxBytesPerSecond: requester.maxBytesPerSecond ?? null,
      deadlineAt: sql`now() + ${`${requester.deadlineMs} milliseconds`}::interval`,
      traceId: requester.traceId ?? null,
    })
    .returning();
  if (row === undefined) throw new Error("the inserted operation was not returned");
  return row;
}

/** The operation that was accepted of this very request before; undefined: none was, or it has no key. */
export async function findRepeat(tx: Tx, requester: Requester): Promise<AcceptedOperation | { kind: "key_reused" } | undefined> {
  if (requester.idempotencyKey === undefined) return undefined;
  const [operation] = await tx
    .select()
    .from(operations)
    .where(and(eq(operations.organizationId, requester.organizationId), eq(operations.idempotencyKey, requester.idempotencyKey)));
  if (operation === undefined) return undefined;
  if (operation.requestSha256 !== (requester.requestSha256 ?? null)) return { kind: "key_reused" };
  return { kind: "accepted", operation, isNew: false, outboxIds: [] };
}

function intentMessage(operation: OperationRow) {
  const payload: Intent = {
    type: "intent",
    version: 1,
    kind: operation.kind,
    operationId: operation.id,
    sandboxId: operation.sandboxId,
    ...(operation.traceId === null ? {} : { traceId: operation.traceId }),
  };
  return { subject: subjects.intent(operation.kind), payload, traceId: operation.traceId ?? undefined };
}
