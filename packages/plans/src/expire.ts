/**
 * Ends an operation that passed its deadline uncommitted. The sandbox returns to its last settled
 * state. The host is refused the commit from now on, so the host backs out of what it is still
 * doing. A committed operation never expires: only an observation ends it.
 */
import { type Cause, subjects } from "@torpor/contracts";
import {
  isEnded,
  OPERATION_TARGET,
  type ObservedEvent,
  type StableState,
  transitionSandbox,
} from "@torpor/state-machine";
import { type Moment, systemCommand } from "./commands.ts";
import { type Move, type Plan, planMoves, planOperation } from "./plan.ts";
import type { Operation, Sandbox, View } from "./rows.ts";
import { columnsOnEnter } from "./columns-on-enter.ts";

/** Time after which some of the host's other starts have ended. */
const RETRY_START_SECONDS = 5;

const BACK_TO: Partial<Record<StableState, ObservedEvent>> = {
  creating: "fail",
  running: "is_running",
  paused: "is_paused",
  stopped: "is_stopped",
};

/**
 * Ends `view.named.operation` with the cause from `reason`. Undefined: the operation has committed,
 * or ended.
 */
export function planExpiry(
  view: View,
  moment: Moment,
  reason: (operation: Operation) => Cause = expiryCause,
): Plan | undefined {
  const { operation } = view.named;
  if (operation === undefined || isEnded(operation.status) || operation.committedAt !== null)
    return undefined;
  const { sandbox } = view;
  const error = reason(operation);
  const ended = planOperation(operation.id, "fail", { error }, true);
  const move = {
    ...backFrom(operation, sandbox, error, moment.now),
    fact: `${operation.kind}_expired` as const,
    operation: { id: ended.id, status: ended.patch.status },
    cause: error,
  };
  return planMoves(sandbox, [move], {
    operations: [ended],
    isObserved: true,
    messages: backOutCommand(operation, sandbox, moment),
  });
}

/** The state and the host of the sandbox after the operation has ended. */
function backFrom(
  ended: Operation,
  sandbox: Sandbox,
  error: Cause,
  now: Date,
): Pick<Move, "to" | "patch"> {
  const isBegun = ended.startedAt !== null || ended.kind === "create";
  const fact = BACK_TO[sandbox.settledState];
  if (!isBegun || fact === undefined) return { to: sandbox.state };
  const transition = transitionSandbox(sandbox.state, fact);
  if (transition.kind !== "move") return { to: sandbox.state };
  return {
    to: transition.to,
    patch: {
      ...columnsOnEnter(sandbox, transition.to, error, now),
      ...(ended.kind === "create" ? {} : { hostId: ended.originHostId }),
    },
  };
}

/**
 * Makes the host back out at once. Without this command, the refused commit has the same effect.
 */
function backOutCommand({ id, hostId }: Operation, sandbox: Sandbox, moment: Moment) {
  if (hostId === null) return [];
  const payload = systemCommand("cancel", sandbox, hostId, moment, id);
  return [{ subject: subjects.command(hostId, "cancel"), payload, traceId: null }];
}

function expiryCause({ status, explain, kind, hostId }: Operation): Cause {
  if (status === "waiting" && isPlacementRejection(explain)) {
    const message = `No capacity for the ${kind} within its time limit. ${explain.message}`;
    return { code: "RESOURCE_LIMIT_ERROR", message };
  }
  const doing = status === "waiting" ? "did not begin" : `was not carried out by host ${hostId}`;
  const message = `The ${kind} ${doing} within its time limit; the sandbox was left as it was.`;
  // A start may have waited for a start slot of the host.
  const retry =
    OPERATION_TARGET[kind] === "running" ? { retryAfterSeconds: RETRY_START_SECONDS } : {};
  return { code: "OPERATION_TIMEOUT", message, ...retry };
}

/** Checks that `explain` is the recorded reason why no host could take a waiting operation. */
export function isPlacementRejection(explain: unknown): explain is { message: string } {
  return (
    typeof explain === "object" &&
    explain !== null &&
    "message" in explain &&
    typeof explain.message === "string"
  );
}
