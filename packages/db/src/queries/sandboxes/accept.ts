/**
 * Accepts a create, in the gateway: inserts the sandbox and its operation, and announces them
 * through the outbox.
 */
import { newOperationId, type SandboxId } from "@torpor/contracts";
import { planCreate, type Requester } from "@torpor/plans";
import { and, type Column, eq, getTableColumns, is, SQL } from "drizzle-orm";
import type { Database, Tx } from "../../database.ts";
import { applyUnderQuotas } from "../../decide.ts";
import { operations, sandboxes } from "../../schema.ts";
import { constraintName, sqlState, UNIQUE_VIOLATION } from "../../transaction.ts";
import type { OperationRow } from "../operations/operations.ts";
import type { OutboxRow } from "../outbox/outbox.ts";
import type { QuotaRefusal, QuotaStatus } from "../organizations/quotas.ts";
import type { AppliedOne } from "./apply-plans.ts";

export interface AcceptedOperation {
  kind: "accepted";
  operation: OperationRow;
  /** False when the request joined an existing operation. */
  isNew: boolean;
  messages: OutboxRow[];
  /** Quotas with the operation counted; undefined: no quotas, or nothing was counted. */
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

/** Attempts after races with requests that had the same key and were not accepted in the end. */
const MAX_ATTEMPTS = 10;

/**
 * Inserts a sandbox in `creating` with its create operation, in a batch with other requests.
 * `address_taken`: choose another edge address and call again.
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
    // The request may be a repeat of one that used the quotas in the meantime.
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

/** The request that had the key was not accepted, or the quotas must be counted again. */
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

/** Fills in the columns' defaults, because a plan contains the whole row. */
function withDefaults(sandbox: NewSandbox): { id: SandboxId } & Record<string, unknown> {
  const columns = Object.entries<Column>(getTableColumns(sandboxes));
  const defaults = columns
    .filter(([, { default: value }]) => value !== undefined && !is(value, SQL))
    .map(([key, { default: value }]) => [key, value] as const);
  return { ...Object.fromEntries(defaults), ...sandbox };
}

/** Another operation has the idempotency key. */
export function isRepeated(error: unknown): boolean {
  const isTaken = sqlState(error) === UNIQUE_VIOLATION;
  return isTaken && constraintName(error) === "operations_idempotency";
}

/**
 * The operation of an earlier, equal request. Undefined: there is none, or the request has no key.
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
