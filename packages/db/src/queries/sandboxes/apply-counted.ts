/**
 * Applies plans of organizations with quotas: the use is counted under a lock on the quotas.
 * Concurrent plans of one organization share the lock, the count and the commit.
 */
import type { Plan } from "@torpor/plans";
import type { Database, Tx } from "../../database.ts";
import { inTransaction } from "../../transaction.ts";
import {
  countUnderLock,
  judgeQuotas,
  type QuotaClaim,
  type QuotaRefusal,
  type QuotaRequest,
  type QuotaStatus,
} from "../organizations/quotas.ts";
import { type AppliedOne, type AppliedPlan, applyTogether, isOfOnePlan } from "./apply-plans.ts";

export interface CountedPlan {
  plan: Plan;
  asked: QuotaRequest;
}

/** `quotas`: includes the plan's use; undefined: the organization no longer has quotas. */
export type AppliedCounted =
  | { applied: AppliedOne; quotas?: QuotaStatus | undefined }
  | { applied: QuotaRefusal };

/** Applies plans of any organizations. Results are in the order of `counted`. */
export async function applyCounted(
  db: Database,
  counted: CountedPlan[],
): Promise<AppliedCounted[]> {
  const places = Map.groupBy(counted.keys(), (at) => counted[at]?.asked.organizationId);
  const results: AppliedCounted[] = [];
  await Promise.all(
    [...places.values()].map(async (of) => {
      const each = of.flatMap((at) => counted[at] ?? []);
      const applied = await applyOfOne(db, each);
      for (const [index, at] of of.entries()) results[at] = applied[index] ?? LOST;
    }),
  );
  return results;
}

/** Makes the caller plan again. */
const LOST: AppliedCounted = { applied: { kind: "lost_race" } };

async function applyOfOne(db: Database, counted: CountedPlan[]): Promise<AppliedCounted[]> {
  try {
    return await inTransaction(db, (tx) => applyUnderLock(tx, counted));
  } catch (error) {
    if (!isOfOnePlan(error)) throw error;
    if (counted.length === 1) return [{ applied: { kind: "failed", error } }];
    return (await Promise.all(counted.map((one) => applyOfOne(db, [one])))).flat();
  }
}

async function applyUnderLock(tx: Tx, all: CountedPlan[]): Promise<AppliedCounted[]> {
  // A second plan for a sandbox was made for a queue that the first plan changes.
  const isFirst = ({ plan: { sandboxId } }: CountedPlan, at: number) =>
    all.findIndex(({ plan }) => plan.sandboxId === sandboxId) === at;
  const counted = all.filter(isFirst);
  const asked = counted.map((one) => one.asked);
  const organizationId = asked[0]?.organizationId ?? 0;
  const sandboxIds = asked.map(({ sandbox }) => sandbox.id);
  const use = await countUnderLock(tx, organizationId, sandboxIds);
  const claims: QuotaClaim[] =
    use === undefined
      ? asked.map(() => ({ kind: "granted", quotas: undefined }))
      : judgeQuotas(use, asked);
  const granted = counted.filter((_, at) => claims[at]?.kind === "granted");
  const plans = granted.map(({ plan }) => ({ ...plan, unlimitedOrganizationId: null }));
  // Does not wait for locked sandboxes, because other requests wait for the quotas.
  const applied = plans.length === 0 ? [] : await applyTogether(tx, plans, "for_none");
  return resultsOf(
    claims,
    applied,
    all.map((one) => counted.indexOf(one)),
  );
}

/** A refusal is final only if everything granted before it was applied; otherwise plan again. */
function resultsOf(
  claims: QuotaClaim[],
  applied: AppliedPlan[],
  places: number[],
): AppliedCounted[] {
  let next = 0;
  let allApplied = true;
  const each = claims.map((claim): AppliedCounted => {
    if (claim.kind === "quota_exceeded") return allApplied ? { applied: claim } : LOST;
    const one = applied[next] ?? { kind: "lost_race" };
    next += 1;
    allApplied &&= one.kind === "applied";
    return { applied: one, quotas: claim.quotas };
  });
  return places.map((at) => each[at] ?? LOST);
}
