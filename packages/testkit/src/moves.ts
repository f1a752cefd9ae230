/** Moves a sandbox into any state, including ways that no plan of the product allows. */
import type { HostId } from "@torpor/contracts";
import {
  applyPlan,
  type Change,
  type OutboxMessage,
  type OutboxRow,
  type SandboxRow,
  type Tx,
} from "@torpor/db";
import { planMoves } from "@torpor/plans";
import type { SandboxState } from "@torpor/state-machine";

export interface RecordedMove extends Change {
  /** The row as it was read; its generation is the compare-and-set key. */
  sandbox: SandboxRow;
  to: SandboxState;
  messages?: OutboxMessage[];
}

export type MoveResult =
  | { kind: "moved"; sandbox: SandboxRow; messages: OutboxRow[] }
  | { kind: "lost_race" }
  | { kind: "no_capacity"; hostId: HostId };

export async function moveSandbox(
  tx: Tx,
  { sandbox, messages = [], ...move }: RecordedMove,
): Promise<MoveResult> {
  const further = messages.map(({ subject, payload, traceId = null }) => ({
    subject,
    payload,
    traceId,
  }));
  const plan = planMoves(sandbox, [move], { messages: further });
  const applied = await applyPlan(tx, plan);
  if (applied.kind === "lost_race" || applied.kind === "no_capacity") return applied;
  if (applied.kind !== "applied")
    throw new Error(`a move that chooses no host and queues nothing was ${applied.kind}`);
  const cleared = plan.clearsEnvironment ? { envVars: {}, envVarsSealed: null } : {};
  return {
    kind: "moved",
    sandbox: { ...sandbox, ...plan.after, ...cleared, updatedAt: applied.at },
    messages: applied.messages,
  };
}
