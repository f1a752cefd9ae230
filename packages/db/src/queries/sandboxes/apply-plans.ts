/** The only way to change a sandbox: plans (packages/plans), applied by a database function. */
import { type HostId, type OperationId, type SandboxId, unverifiedHostId } from "@torpor/contracts";
import type { Applied, Plan, SandboxPatch } from "@torpor/plans";
import { getTableColumns, sql } from "drizzle-orm";
import type { Tx } from "../../database.ts";
import { operations, sandboxes } from "../../schema.ts";
import { sqlState } from "../../transaction.ts";
import type { OperationRow } from "../operations/operations.ts";
import type { OutboxRow } from "../outbox/outbox.ts";
import { rowFrom } from "../row-from.ts";

/** Locks of others to wait for: of sandboxes and hosts, of hosts, or none (migration 0025). */
type Waits = "for_all" | "for_hosts" | "for_none";

/** Result of one plan of a batch. A plan that the database refuses fails without the others. */
export type AppliedPlan = Applied<OutboxRow, OperationRow>;
export type AppliedOne = AppliedPlan | { kind: "failed"; error: unknown };

/**
 * Applies plans in one statement, and so in one transaction: when the promise resolves, the applied
 * plans are committed. Rejects when the database is unreachable; then any of them may be applied.
 */
export async function applyPlans(
  db: Tx,
  plans: Plan[],
  waits: Waits = "for_hosts",
): Promise<AppliedOne[]> {
  try {
    return await applyTogether(db, plans, waits);
  } catch (error) {
    // Something slower than a batch holds a host's row: leave out only the plans for that host.
    if (sqlState(error) === LOCK_NOT_AVAILABLE) return await applyPlans(db, plans, "for_none");
    if (!isOfOnePlan(error)) throw error;
    return plans.length === 1 ? [{ kind: "failed", error }] : await applyHalves(db, plans, waits);
  }
}

/** Finds the plan at fault: the other half is applied at once. Applied plans stay applied. */
async function applyHalves(db: Tx, plans: Plan[], waits: Waits): Promise<AppliedOne[]> {
  const middle = Math.ceil(plans.length / 2);
  const halves = [plans.slice(0, middle), plans.slice(middle)];
  const applied: AppliedOne[] = [];
  for (const half of halves) {
    const each = await applyPlans(db, half, waits).catch((error: unknown) =>
      half.map(() => ({ kind: "failed" as const, error })),
    );
    applied.push(...each);
  }
  return applied;
}

/**
 * Applies all plans within a transaction that changes more and has locked their sandboxes. Throws
 * when a plan is not applied.
 */
export async function applyWithin(tx: Tx, plans: Plan[]): Promise<void> {
  if (plans.length === 0) return;
  for (const [at, { kind }] of (await applyTogether(tx, plans, "for_all")).entries())
    if (kind !== "applied")
      throw new Error(`sandbox ${plans[at]?.sandboxId} is held, and could not be moved: ${kind}`);
}

/**
 * Applies one plan within a transaction that changes more, and waits for locks. Roll the
 * transaction back unless the result is `applied`.
 */
export async function applyPlan(tx: Tx, plan: Plan): Promise<AppliedPlan> {
  const [applied] = await applyTogether(tx, [plan], "for_all");
  if (applied === undefined) throw new Error("the database said nothing of a plan");
  return applied;
}

const LOCK_NOT_AVAILABLE = "55P03";

/**
 * An error of a value or a constraint (22, 23), or of locks taken in another order (40). One plan
 * is at fault, but the whole statement has failed.
 */
export function isOfOnePlan(error: unknown): boolean {
  return /^(22|23|40)/.test(sqlState(error) ?? "");
}

/** Result of the database function for a batch. */
interface Results {
  verdicts: AppliedPlan["kind"][];
  shortHosts: (HostId | null)[] | null;
  outboxIds: number[];
  occurredAt: string;
  /** Keyed by sandbox id. */
  waiting: Record<SandboxId, OperationId>;
  queued: Record<SandboxId, Record<string, unknown>>;
}

export async function applyTogether(db: Tx, plans: Plan[], waits: Waits): Promise<AppliedPlan[]> {
  const given = JSON.stringify(plans.map(asColumns));
  const [row] = await db.execute(sql`SELECT apply_plans(${given}::jsonb, ${waits}) AS results`);
  const results = row?.["results"] as Results;
  if (results.verdicts.length !== plans.length)
    throw new Error("the database spoke of other plans than were given");
  let messages = 0;
  return plans.map((plan, index) => {
    const verdict = results.verdicts[index] ?? "lost_race";
    if (verdict === "no_capacity")
      return { kind: verdict, hostId: results.shortHosts?.[index] ?? unverifiedHostId("") };
    if (verdict !== "applied") return { kind: verdict };
    const outboxIds = results.outboxIds.slice(messages, messages + plan.messages.length);
    messages += outboxIds.length;
    return appliedAs(plan, results, outboxIds);
  });
}

function appliedAs(
  plan: Plan,
  { occurredAt, waiting, queued }: Results,
  outboxIds: number[],
): AppliedPlan {
  return {
    kind: "applied",
    messages: messagesOf(plan, occurredAt, outboxIds),
    at: new Date(occurredAt),
    waitingOperationId: waiting[plan.sandboxId] ?? null,
    queued: rowFrom<OperationRow>(operations, queued[plan.sandboxId] ?? null),
  };
}

function messagesOf(plan: Plan, occurredAt: string, outboxIds: number[]): OutboxRow[] {
  return plan.messages.map(({ subject, payload, traceId, isEvent, deadlineMs }, index) => {
    const id = outboxIds[index];
    if (id === undefined) throw new Error("a message of a plan was not written");
    if (isEvent) return { id, subject, payload: { ...(payload as object), occurredAt }, traceId };
    if (deadlineMs === undefined) return { id, subject, payload, traceId };
    const deadlineAt = new Date(Date.parse(occurredAt) + deadlineMs).toISOString();
    return { id, subject, payload: { ...(payload as object), deadlineAt }, traceId };
  });
}

const SANDBOX_COLUMNS = getTableColumns(sandboxes);
const OPERATION_COLUMNS = getTableColumns(operations);

function asColumns({ isObserved, ...plan }: Plan) {
  return {
    ...plan,
    // The field's name in the database function.
    isFact: isObserved,
    creates: plan.creates === null ? null : named(plan.creates, SANDBOX_COLUMNS),
    after: named(plan.after, SANDBOX_COLUMNS),
    operations: plan.operations.map((operation) => ({
      ...operation,
      patch: named(operation.patch, OPERATION_COLUMNS),
    })),
  };
}

/** Renames the keys to the names of the columns in the database. */
function named(
  patch: SandboxPatch | object,
  columns: Readonly<Record<string, { name: string }>>,
): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(patch)
      .filter(([, value]) => value !== undefined)
      .map(([key, value]) => {
        const column = columns[key];
        if (column === undefined) throw new Error(`${key} is no column of the table`);
        return [column.name, value];
      }),
  );
}
