/**
 * The only loop that changes a sandbox: read, plan, apply, and plan again from fresh rows after a
 * lost race. Many decisions share statements and commits (`Batches`); `decide` returns after the
 * commit.
 */
import type { Plan } from "@torpor/plans";
import { backoffMs, Batches, sleep } from "@torpor/service";
import type { Database } from "./database.ts";
import {
  type AppliedCounted,
  applyCounted,
  type CountedPlan,
} from "./queries/sandboxes/apply-counted.ts";
import { type AppliedOne, type AppliedPlan, applyPlans } from "./queries/sandboxes/apply-plans.ts";
import type { QuotaRefusal, QuotaRequest, QuotaStatus } from "./queries/organizations/quotas.ts";
import { readViews, type SandboxRows, type WantedView } from "./queries/sandboxes/views.ts";

/** Attempts before `decide` gives up; after a lost race, the next attempt reads fresh rows. */
const MAX_ATTEMPTS = 10;
/** A lock on a sandbox is held for milliseconds, unless something is wrong. */
const LOCKED_LIMIT_MS = 15_000;
const LOCKED_WAIT = { baseMs: 10, maxMs: 500 };

interface Rows {
  views: Batches<WantedView, SandboxRows | undefined>;
  plans: Batches<Plan, AppliedOne>;
  counted: Batches<CountedPlan, AppliedCounted>;
}
/** Keyed by database handle, because statements of one organization must not mix with another's. */
const rows = new WeakMap<Database, Rows>();

function rowsOf(db: Database): Rows {
  const known = rows.get(db);
  if (known !== undefined) return known;
  const made: Rows = {
    views: new Batches({ run: (wanted) => readViews(db, wanted), triesAlone: true }),
    plans: new Batches({ run: (plans) => applyPlans(db, plans) }),
    counted: new Batches({ run: (counted) => applyCounted(db, counted) }),
  };
  rows.set(db, made);
  return made;
}

/**
 * Applies a plan in a batch with other plans of the same moment. Rejects when the database is
 * unreachable.
 */
export async function applyBatched(db: Database, plan: Plan): Promise<AppliedOne> {
  return await rowsOf(db).plans.add(plan);
}

/** Applies a plan that uses quotas. `counted` replaces `plan` if the organization has quotas. */
export async function applyUnderQuotas(
  db: Database,
  plan: Plan,
  asked: QuotaRequest,
  counted = plan,
): Promise<AppliedCounted> {
  const applied = await applyBatched(db, plan);
  if (applied.kind !== "has_quotas") return { applied };
  return await rowsOf(db).counted.add({ plan: counted, asked });
}

export interface Decision<Answer> {
  /** Undefined: there is nothing to write. */
  plan?: Plan | undefined;
  /** The quotas that the plan uses; undefined: none. */
  asks?: QuotaRequest | undefined;
  /** Replaces `plan` under the lock of the quotas, because other requests wait for that lock. */
  counted?: Plan | undefined;
  answer: Answer;
}

export interface Decided<Answer> {
  answer: Answer;
  /** Result of the plan; undefined: there was no plan. */
  applied?: Extract<AppliedPlan, { kind: "applied" }> | QuotaRefusal;
  quotas?: QuotaStatus | undefined;
}

interface DecideOptions<Answer> {
  decideFrom: (view: SandboxRows | undefined) => Decision<Answer> | Promise<Decision<Answer>>;
  /** Called when the chosen host has changed or is full, or when a row of the plan was locked. */
  onOvertaken?: () => void;
}

/**
 * Decides about one sandbox, and calls `decideFrom` again after a lost race. Returns `gave_up` when
 * the sandbox kept changing or stayed locked. Rejects when the database refuses the plan or is
 * unreachable.
 */
export async function decide<Answer>(
  db: Database,
  wanted: WantedView,
  { decideFrom, onOvertaken }: DecideOptions<Answer>,
): Promise<Decided<Answer> | "gave_up"> {
  const { views } = rowsOf(db);
  const giveUpAtMs = performance.now() + LOCKED_LIMIT_MS;
  let timesLocked = 0;
  let refused: { of: string; decided: Decided<Answer> } | undefined;
  for (let lost = 0; lost < MAX_ATTEMPTS;) {
    const { plan, asks, counted: underQuotas, answer } = await decideFrom(await views.add(wanted));
    if (plan === undefined) return { answer };
    // The refusal was read again, in case another request has meanwhile queued the same operation.
    // The queue is unchanged, so the refusal is final.
    if (refused?.of === queueOf(plan)) return refused.decided;
    const counted = asks && (await applyUnderQuotas(db, plan, asks, underQuotas));
    const applied = counted === undefined ? await applyBatched(db, plan) : counted.applied;
    switch (applied.kind) {
      case "failed":
        throw applied.error;
      case "applied":
        return { answer, applied, quotas: counted === undefined ? undefined : quotasOf(counted) };
      case "quota_exceeded":
        refused = { of: queueOf(plan), decided: { answer, applied } };
        lost += 1;
        break;
      case "locked":
        if (performance.now() > giveUpAtMs) return "gave_up";
        onOvertaken?.();
        await sleep(backoffMs(timesLocked, LOCKED_WAIT));
        timesLocked += 1;
        break;
      case "no_capacity":
      case "overtaken":
        onOvertaken?.();
        lost += 1;
        break;
      // The view of the next attempt has the operation with that key.
      case "key_used":
      case "lost_race":
        lost += 1;
        break;
      case "address_taken":
      case "has_quotas":
        throw new Error(`a plan for sandbox ${plan.sandboxId} was ${applied.kind}`);
    }
  }
  return refused?.decided ?? "gave_up";
}

const queueOf = ({ generation, open }: Plan) => JSON.stringify([generation, open]);
const quotasOf = (counted: AppliedCounted) => ("quotas" in counted ? counted.quotas : undefined);
