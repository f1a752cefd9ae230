/**
 * The one loop in which a sandbox is changed: read, decide, write, and decide again from fresh rows
 * when somebody else was faster. Reads and writes of many decisions share statements and commits
 * (`Batches`); none is answered before its commit.
 */
import {
  applyPlans,
  type AppliedOne,
  commitOperations,
  type CommitAsked,
  type Database,
  type OutboxRow,
  readViews,
  type SandboxRows,
  type WantedView,
} from "@torpor/db";
import { newOperationId } from "@torpor/contracts";
import type { Moment, Plan } from "@torpor/plans";
import { backoffMs, Batches, pause } from "@torpor/service";
import type { Deps } from "./deps.ts";

/** A lost race is decided again from fresh rows; so often at most. */
const MAX_ATTEMPTS = 10;
/** Whoever has a sandbox locked is through with it in milliseconds, unless something is wrong. */
const LOCKED_LIMIT_MS = 15_000;
const LOCKED_WAIT = { baseMs: 10, maxMs: 500 };

/** What decisions read and write, each batched with others of the same moment. */
export class Rows {
  private readonly views: Batches<WantedView, SandboxRows | undefined>;
  private readonly plans: Batches<Plan, AppliedOne>;
  private readonly commits: Batches<CommitAsked, boolean>;

  constructor(db: Database) {
    this.views = new Batches({ run: (wanted) => readViews(db, wanted) });
    this.plans = new Batches({ run: (plans) => applyPlans(db, plans) });
    this.commits = new Batches({ run: (asked) => commitOperations(db, asked) });
  }

  /** Undefined: there is no such sandbox, or no such operation. */
  async view(wanted: WantedView): Promise<SandboxRows | undefined> {
    return await this.views.add(wanted);
  }

  async apply(plan: Plan): Promise<AppliedOne> {
    return await this.plans.add(plan);
  }

  /** Whether the operation may pass its point of no return, and has from now on. */
  async commit(asked: CommitAsked): Promise<boolean> {
    return await this.commits.add(asked);
  }
}

export const thisMoment = (): Moment => ({ now: new Date(), newOperationId });

export type Decision<Answer> =
  | { plan: Plan; answer: Answer }
  /** Nothing is to be written. */
  | { plan?: undefined; answer: Answer };

export interface Decided<Answer> {
  answer: Answer;
  /** Of what was written; undefined: nothing was. */
  applied?: { waitingOperationId: string | null };
}

/**
 * Decides about one sandbox, and publishes what that brought about. `gave_up`: it kept changing
 * meanwhile. Rejects when the database refuses what was decided, or cannot be asked.
 */
export async function decide<Answer>(
  deps: Pick<Deps, "rows" | "placer" | "publishCommitted">,
  wanted: WantedView,
  decideFrom: (view: SandboxRows | undefined) => Decision<Answer> | Promise<Decision<Answer>>,
): Promise<Decided<Answer> | "gave_up"> {
  const giveUpAtMs = performance.now() + LOCKED_LIMIT_MS;
  let timesLocked = 0;
  for (let lost = 0; lost < MAX_ATTEMPTS;) {
    const { plan, answer } = await decideFrom(await deps.rows.view(wanted));
    if (plan === undefined) return { answer };
    const applied = await deps.rows.apply(plan);
    if (applied.kind === "failed") throw applied.error;
    if (applied.kind === "applied") {
      await publish(deps, applied.messages);
      return { answer, applied };
    }
    if (applied.kind === "locked") {
      if (performance.now() > giveUpAtMs) return "gave_up";
      await pause(backoffMs(timesLocked, LOCKED_WAIT));
      timesLocked += 1;
      continue;
    }
    lost += 1;
    // The host that was chosen is not what it was: the next choice is made from new rows.
    if (applied.kind !== "lost_race") deps.placer.forget();
  }
  return "gave_up";
}

async function publish(
  { publishCommitted }: Pick<Deps, "publishCommitted">,
  messages: OutboxRow[],
): Promise<void> {
  if (messages.length > 0) await publishCommitted(messages);
}
