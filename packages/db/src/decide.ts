/**
 * The one loop in which a sandbox is changed: read, decide, write, and decide again from fresh rows
 * when somebody else was faster. Reads and writes of many decisions share statements and commits
 * (`Batches`); none is answered before its commit.
 */
import type { Plan } from "@torpor/plans";
import { backoffMs, Batches, sleep } from "@torpor/service";
import type { Database } from "./database.ts";
import { type AppliedCounted, applyCounted, type CountedPlan } from "./queries/apply-counted.ts";
import { type AppliedOne, type AppliedPlan, applyPlans } from "./queries/apply-plans.ts";
import type { QuotaRefusal, QuotaRequest, QuotaStatus } from "./queries/quotas.ts";
import { readViews, type SandboxRows, type WantedView } from "./queries/views.ts";

/** A lost race is decided again from fresh rows; so often at most. */
const MAX_ATTEMPTS = 10;
/** Whoever has a sandbox locked is through with it in milliseconds, unless something is wrong. */
const LOCKED_LIMIT_MS = 15_000;
const LOCKED_WAIT = { baseMs: 10, maxMs: 500 };

interface Rows {
  views: Batches<WantedView, SandboxRows | undefined>;
  plans: Batches<Plan, AppliedOne>;
  counted: Batches<CountedPlan, AppliedCounted>;
}
/** By what they are read and written with: statements of one organization are not another's. */
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
 * Applies a plan together with others of the same moment. Rejects when the database cannot be
 * asked.
 */
export async function applyBatched(db: Database, plan: Plan): Promise<AppliedOne> {
  return await rowsOf(db).plans.add(plan);
}

/**
 * The same for a plan that uses of quotas; `counted` takes its place where its organization has
 * some.
 */
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
  /** Undefined: nothing is to be written. */
  plan?: Plan | undefined;
  /** What the plan uses of quotas; undefined: nothing that counts. */
  asks?: QuotaRequest | undefined;
  /** In place of `plan` where quotas are counted: others wait for whoever counts. */
  counted?: Plan | undefined;
  answer: Answer;
}

export interface Decided<Answer> {
  answer: Answer;
  /** What came of the plan; undefined: there was none. */
  applied?: Extract<AppliedPlan, { kind: "applied" }> | QuotaRefusal;
  quotas?: QuotaStatus | undefined;
}

interface DecideOptions<Answer> {
  decideFrom: (view: SandboxRows | undefined) => Decision<Answer> | Promise<Decision<Answer>>;
  /** The host that a plan chose is not what it was, or may be what somebody has locked. */
  onOvertaken?: () => void;
}

/**
 * Decides about one sandbox; `decideFrom` is called again after a lost race. `gave_up`: it kept
 * changing, or somebody kept it locked. Rejects when the database refuses what was decided, or
 * cannot be asked.
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
    // Nothing has changed since it was refused: somebody may have asked for the same meanwhile.
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
