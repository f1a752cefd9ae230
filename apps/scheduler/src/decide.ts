/** Decides about a sandbox (packages/db), and publishes the messages that result. */
import { newOperationId } from "@torpor/contracts";
import {
  type Decided,
  decide as decideFromRows,
  type Decision,
  type SandboxRows,
  type WantedView,
} from "@torpor/db";
import type { Moment } from "@torpor/plans";
import type { Deps } from "./deps.ts";

export const thisMoment = (): Moment => ({ now: new Date(), newOperationId });

/** See `decide` of packages/db. */
export async function decide<Answer>(
  { db, placer, publishCommitted }: Pick<Deps, "db" | "placer" | "publishCommitted">,
  wanted: WantedView,
  decideFrom: (view: SandboxRows | undefined) => Decision<Answer> | Promise<Decision<Answer>>,
): Promise<Decided<Answer> | "gave_up"> {
  const onOvertaken = () => placer.invalidate();
  const decided = await decideFromRows(db, wanted, { decideFrom, onOvertaken });
  if (decided === "gave_up" || decided.applied?.kind !== "applied") return decided;
  const { messages } = decided.applied;
  if (messages.length > 0) await publishCommitted(messages);
  return decided;
}
