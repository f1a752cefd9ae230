/**
 * Ends an operation that passed its deadline uncommitted. The sandbox goes back to the state it was settled in; whatever its host is still doing about it is refused its
 * commit from now on, so it backs out. A committed operation is never expired: it ends by observation alone.
 */
import { type Cause, subjects } from "@torpor/contracts";
import { findSandboxRow, inTransaction, moveOperation, moveSandbox, type MoveResult, type OperationRow, type SandboxRow } from "@torpor/db";
import { OPERATION_TARGET, type SandboxFact, type SettledState, transitionSandbox } from "@torpor/state-machine";
import { systemCommand } from "./commands.ts";
import type { Deps } from "./deps.ts";
import { settledPatch } from "./settled-patch.ts";

/** Its host is through with some of the others by then. */
const RETRY_START_SECONDS = 5;

const BACK_TO: Partial<Record<SettledState, SandboxFact>> = {
  creating: "fail",
  running: "is_running",
  paused: "is_paused",
  stopped: "is_stopped",
};

/**
 * True when it ended now. False: it committed, ended, or changed meanwhile; the next round looks again.
 *
 * `operation` may be a little old: a scheduler may have begun it since, on another host. What that takes back is decided from the row that is ended.
 */
export async function expireOperation(deps: Deps, operation: OperationRow, error = expiryCause(operation)): Promise<boolean> {
  const sandbox = await findSandboxRow(deps.db, operation.sandboxId);
  if (sandbox === undefined) throw new Error(`operation ${operation.id} names sandbox ${operation.sandboxId}, which does not exist`);
  const result = await inTransaction<MoveResult, MoveResult | null>(deps.db, async (tx, rollback) => {
    const ended = await moveOperation(tx, operation.id, "fail", { error }, { uncommittedOnly: true });
    if (ended === undefined || ended.status !== "failed") return rollback(null);
    const move = await moveSandbox(tx, {
      sandbox,
      ...backFrom(ended, sandbox, error),
      fact: `${ended.kind}_expired`,
      operation: { id: ended.id, status: ended.status },
      cause: error,
      isFact: true,
      messages: backOutCommand(ended, sandbox),
    });
    return move.kind === "moved" ? move : rollback(move);
  });
  if (result === null || result.kind !== "moved") return false;
  deps.log.warn(
    { sandboxId: sandbox.id, operationId: operation.id, kind: operation.kind, hostId: operation.hostId, error },
    "operation expired",
  );
  await deps.publishCommitted(result.outboxIds);
  return true;
}

/** Where the sandbox goes once the operation has ended, and on which host it then is. */
function backFrom(ended: OperationRow, sandbox: SandboxRow, error: Cause): Pick<Parameters<typeof moveSandbox>[1], "to" | "patch"> {
  const isBegun = ended.startedAt !== null || ended.kind === "create";
  const fact = BACK_TO[sandbox.settledState];
  if (!isBegun || fact === undefined) return { to: sandbox.state };
  const transition = transitionSandbox(sandbox.state, fact);
  if (transition.kind !== "move") return { to: sandbox.state };
  return {
    to: transition.to,
    patch: { ...settledPatch(sandbox, transition.to, error), ...(ended.kind === "create" ? {} : { hostId: ended.originHostId }) },
  };
}

/** Speeds up what the refused commit would do anyway. */
function backOutCommand({ id, hostId }: OperationRow, sandbox: SandboxRow) {
  if (hostId === null) return [];
  return [{ subject: subjects.command(hostId, "cancel"), payload: systemCommand("cancel", sandbox, hostId, id) }];
}

function expiryCause(operation: OperationRow): Cause {
  if (operation.status === "waiting" && isPlacementRejection(operation.explain)) {
    return {
      code: "RESOURCE_LIMIT_ERROR",
      message: `No capacity for the ${operation.kind} within its time limit. ${operation.explain.message}`,
    };
  }
  const doing = operation.status === "waiting" ? "did not begin" : `was not carried out by host ${operation.hostId}`;
  const message = `The ${operation.kind} ${doing} within its time limit; the sandbox was left as it was.`;
  // What begins a run may have waited there for others.
  const retry = OPERATION_TARGET[operation.kind] === "running" ? { retryAfterSeconds: RETRY_START_SECONDS } : {};
  return { code: "OPERATION_TIMEOUT", message, ...retry };
}

/** Why a waiting operation could not be placed, as `explainOperation` has noted it. */
export function isPlacementRejection(explain: unknown): explain is { message: string } {
  return typeof explain === "object" && explain !== null && "message" in explain && typeof explain.message === "string";
}
