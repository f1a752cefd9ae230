/** Ends operations that passed their deadline uncommitted (planExpiry). */
import type { Cause } from "@torpor/contracts";
import type { OperationRow } from "@torpor/db";
import { planExpiry } from "@torpor/plans";
import { decide, thisMoment } from "../decide.ts";
import type { Deps } from "../deps.ts";

/**
 * True when the operation ended now. False: it committed or ended, or its row kept changing, and
 * the next round tries again. The plan is made from the current row, not from the caller's.
 */
export async function expireOperation(
  deps: Deps,
  { id: operationId, kind }: Pick<OperationRow, "id" | "kind">,
  error?: Cause,
  /** Only in this status, because the cause is about this status. */
  onlyIn?: OperationRow["status"],
): Promise<boolean> {
  const reason = error === undefined ? undefined : () => error;
  const decided = await decide(deps, { operationId }, (view) => {
    const operation = view?.named.operation;
    const isMeant = onlyIn === undefined || operation?.status === onlyIn;
    const plan =
      view === undefined || !isMeant ? undefined : planExpiry(view, thisMoment(), reason);
    return { plan, answer: { sandboxId: view?.sandbox.id, hostId: operation?.hostId } };
  });
  if (decided === "gave_up" || decided.applied === undefined) return false;
  deps.log.warn({ operationId, kind, ...decided.answer, error }, "operation expired");
  return true;
}
