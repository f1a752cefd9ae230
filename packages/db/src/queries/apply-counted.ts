/**
 * Plans of organizations with quotas: applied under the lock of these, by what is counted then.
 * Those that an organization asks for at the same moment share the lock, the count and the commit.
 */
import type { Plan } from "@torpor/plans";
import type { Database, Tx } from "../database.ts";
import { inTransaction } from "../transaction.ts";
import { type AppliedOne, type AppliedPlan, applyTogether, isOfOnePlan } from "./apply-plans.ts";
import {
  countUnderLock,
  judgeQuotas,
  type QuotaClaim,
  type QuotaRefusal,
  type QuotaRequest,
  type QuotaStatus,
} from "./quotas.ts";

export interface CountedPlan {
  plan: Plan;
  asked: QuotaRequest;
}

/** `quotas`: with what the plan uses; undefined: the organization has none any more. */
export type AppliedCounted =
  | { applied: AppliedOne; quotas?: QuotaStatus | undefined }
  | { applied: QuotaRefusal };

/** Of any organizations, in the order in which they were given. */
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

/** Its sandbox is planned about once more. */
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
  // The second of one sandbox is for a queue that the first changes.
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
  // Whoever has a sandbox locked is not waited for: others wait for the quotas.
  const applied = plans.length === 0 ? [] : await applyTogether(tx, plans, "for_none");
  return resultsOf(
    claims,
    applied,
    all.map((one) => counted.indexOf(one)),
  );
}

/** Refused is only who is refused by what has been applied: else it is judged once more. */
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
