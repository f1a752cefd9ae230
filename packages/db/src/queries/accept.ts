/** Accepting a create: what the gateway writes. It inserts the sandbox and its operation, and announces them through the outbox. */
import { newOperationId, type SandboxEventMessage, subjects } from "@torpor/contracts";
import { intentOf, queued, type QueuedOperation, type Requester } from "@torpor/plans";
import type { OperationKind } from "@torpor/state-machine";
import { and, eq, sql } from "drizzle-orm";
import type { Database, Tx } from "../client.ts";
import { operations, sandboxes, sandboxEvents } from "../schema.ts";
import { constraintName, sqlState, UNIQUE_VIOLATION } from "../transaction.ts";
import { insertOutbox } from "./move-sandbox.ts";
import type { OperationRow } from "./operations.ts";
import type { OutboxRow } from "./outbox.ts";
import { claimQuotas, type QuotaClaim, type QuotaRefusal, type QuotaStanding } from "./quotas.ts";

export interface AcceptedOperation {
  kind: "accepted";
  operation: OperationRow;
  /** False when it joined an operation that was there already. */
  isNew: boolean;
  messages: OutboxRow[];
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
      const queues = queued(newOperationId(), "create", requester);
      const operation = await insertOperation(tx, row.id, queues);
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
      const messages = await insertOutbox(tx, [
        { subject: subjects.sandboxEvent(row.id, "accepted"), payload: event },
        intentOf(row, queues),
      ]);
      return { kind: "accepted", operation, isNew: true, messages, quotas: claim.quotas } as const;
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

export async function claimFor(
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

async function insertOperation(tx: Tx, sandboxId: string, { deadlineMs, ...queues }: QueuedOperation): Promise<OperationRow> {
  const deadlineAt = sql`now() + ${`${deadlineMs} milliseconds`}::interval`;
  const [row] = await tx
    .insert(operations)
    .values({ ...queues, sandboxId, status: "waiting", deadlineAt })
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
  return { kind: "accepted", operation, isNew: false, messages: [] };
}
