/**
 * Accepting a create: what the gateway writes. It inserts the sandbox and its operation, and
 * announces them through the outbox.
 */
import { newOperationId } from "@torpor/contracts";
import { planCreate, type Requester } from "@torpor/plans";
import { and, type Column, eq, getTableColumns, is, SQL } from "drizzle-orm";
import type { Database, Tx } from "../database.ts";
import { applyUnderQuotas } from "../decide.ts";
import { operations, sandboxes } from "../schema.ts";
import { constraintName, sqlState, UNIQUE_VIOLATION } from "../transaction.ts";
import type { AppliedOne } from "./apply-plans.ts";
import type { OperationRow } from "./operations.ts";
import type { OutboxRow } from "./outbox.ts";
import type { QuotaRefusal, QuotaStatus } from "./quotas.ts";

export interface AcceptedOperation {
  kind: "accepted";
  operation: OperationRow;
  /** False when it joined an operation that was there already. */
  isNew: boolean;
  messages: OutboxRow[];
  /** With the operation counted; undefined: the organization has none, or nothing was counted. */
  quotas?: QuotaStatus | undefined;
}

export type AcceptCreate =
  | AcceptedOperation
  | QuotaRefusal
  | { kind: "key_reused" }
  | { kind: "address_taken" };

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

/** A request with the same key was there each time, and was not accepted in the end. */
const MAX_ATTEMPTS = 10;

/**
 * Makes a sandbox in `creating` with its create operation, together with what else is accepted at
 * the moment. `address_taken`: choose another edge address and call again.
 */
export async function acceptCreate(
  db: Database,
  sandbox: NewSandbox,
  requester: Requester,
): Promise<AcceptCreate> {
  const moment = { now: new Date(), newOperationId };
  const plan = planCreate(withDefaults(sandbox), requester, moment);
  const { organizationId } = requester;
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
    const counted = await applyUnderQuotas(db, plan, {
      organizationId,
      kind: "create",
      sandbox,
      supersedes: false,
    });
    // While this one waited for the quotas, the one that it repeats may have used them.
    if (counted.applied.kind === "quota_exceeded")
      return (await findRepeat(db, requester)) ?? counted.applied;
    const created = await createdBy(db, counted.applied, requester);
    if (created.kind === "raced") continue;
    return created.kind === "accepted" && created.isNew && "quotas" in counted
      ? { ...created, quotas: counted.quotas }
      : created;
  }
  throw Object.assign(new Error("requests with one idempotency key kept each other from it"), {
    code: "ETIMEDOUT",
  });
}

/** Whoever had the key was not accepted, or the quotas are to be judged again. */
interface Raced {
  kind: "raced";
}

async function createdBy(
  db: Tx,
  applied: AppliedOne,
  requester: Requester,
): Promise<Exclude<AcceptCreate, QuotaRefusal> | Raced> {
  switch (applied.kind) {
    case "applied": {
      const { queued: operation, messages } = applied;
      if (operation === undefined) throw new Error("the operation of a create was not returned");
      return { kind: "accepted", operation, isNew: true, messages, quotas: undefined };
    }
    case "address_taken":
      return { kind: applied.kind };
    case "lost_race":
      return { kind: "raced" };
    case "failed":
      if (!isRepeated(applied.error)) throw applied.error;
      return (await findRepeat(db, requester)) ?? { kind: "raced" };
    case "key_used":
      return (await findRepeat(db, requester)) ?? { kind: "raced" };
    default:
      throw new Error(`a create was ${applied.kind}`);
  }
}

/** As the database would fill it in: plans are written whole. */
function withDefaults(sandbox: NewSandbox): { id: string } & Record<string, unknown> {
  const columns = Object.entries<Column>(getTableColumns(sandboxes));
  const defaults = columns
    .filter(([, { default: value }]) => value !== undefined && !is(value, SQL))
    .map(([key, { default: value }]) => [key, value] as const);
  return { ...Object.fromEntries(defaults), ...sandbox };
}

/** Somebody else's operation has the idempotency key. */
export function isRepeated(error: unknown): boolean {
  const isTaken = sqlState(error) === UNIQUE_VIOLATION;
  return isTaken && constraintName(error) === "operations_idempotency";
}

/**
 * The operation that was accepted of this very request before; undefined: none was, or it has no
 * key.
 */
export async function findRepeat(
  tx: Tx,
  requester: Requester,
): Promise<AcceptedOperation | { kind: "key_reused" } | undefined> {
  if (requester.idempotencyKey === undefined) return undefined;
  const [operation] = await tx
    .select()
    .from(operations)
    .where(
      and(
        eq(operations.organizationId, requester.organizationId),
        eq(operations.idempotencyKey, requester.idempotencyKey),
      ),
    );
  if (operation === undefined) return undefined;
  if (operation.requestSha256 !== (requester.requestSha256 ?? null)) return { kind: "key_reused" };
  return { kind: "accepted", operation, isNew: false, messages: [] };
}
