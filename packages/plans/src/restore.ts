/**
 * Plans after the loss of a host. A lost run has ended, its newest stored snapshot becomes the
 * sandbox's state again, and the sandbox is to run elsewhere, by the code path of a user's resume.
 * A pending delete of a host that is gone for good ends.
 */
import type { Cause, HostId } from "@torpor/contracts";
import { type SandboxState, transitionSandbox } from "@torpor/state-machine";
import type { Moment } from "./commands.ts";
import { type Effects, type Plan, planMoves, planOperation } from "./plan.ts";
import { openOf, planRequest, type Requester } from "./request.ts";
import type { Sandbox, SnapshotRow, View } from "./rows.ts";
import { columnsOnEnter } from "./columns-on-enter.ts";

export interface Loss {
  hostId: HostId;
  /** Time past the end of the lease after which the fence has certainly frozen the VM. */
  silentForMs: number;
  /** The newest snapshot in the store, whether it has been run since or not. */
  snapshot: SnapshotRow;
  cause: Cause;
}

/** The request that runs a sandbox again that rests in `state`. */
export const restoredBy = (state: SandboxState) => (state === "stopped" ? "start" : "resume");
/** The state of a sandbox that rests on the snapshot. */
export const restsAs = ({ hasMemory }: SnapshotRow) => (hasMemory ? "paused" : "stopped");
const FACT = { paused: "is_lost", stopped: "is_stopped" } as const;

/**
 * Ends the run and requests another one, in one plan: while the plan is applied, the host cannot
 * renew its lease. A waiting request of the owner takes precedence. Undefined: a loss does not end
 * this state.
 */
export function planRestore(
  view: View,
  { hostId, silentForMs, snapshot, cause }: Loss,
  requester: Requester,
  moment: Moment,
): Plan | undefined {
  const { sandbox, executing } = view;
  const stands = restsAs(snapshot);
  const transition = transitionSandbox(sandbox.state, FACT[stands]);
  if (transition.kind !== "move") return undefined;
  const ended =
    executing === undefined ? undefined : planOperation(executing.id, "fail", { error: cause });
  const settled = columnsOnEnter(sandbox, transition.to, undefined, moment.now);
  const move = {
    to: transition.to,
    fact: "host_lost" as const,
    patch: { ...settled, condition: null, hostId: null },
    ...(ended === undefined ? {} : { operation: { id: ended.id, status: ended.patch.status } }),
    cause,
  };
  const { epoch } = sandbox;
  const effects: Effects = {
    endsRun: { epoch, cause: "host_lost" },
    returnsTo: snapshot.generation,
  };
  const moved = planMoves(sandbox, [move], {
    operations: ended === undefined ? [] : [ended],
    effects,
  });
  const after = {
    ...view,
    sandbox: { ...sandbox, ...moved.after },
    executing: undefined,
    snapshot,
  };
  const asked = requestOf(after, requester, moment);
  return {
    ...moved,
    open: openOf(view),
    lost: { hostId, silentForMs },
    ...(asked === undefined
      ? {}
      : {
          operations: [...moved.operations, ...asked.operations],
          queues: asked.queues,
          joins: asked.joins,
          effects: { ...effects, ...asked.effects, owesRestore: epoch },
          messages: [...moved.messages, ...asked.messages],
        }),
  };
}

/**
 * Tries again to restore a sandbox that has been at rest since its run of `epoch` was lost. The
 * plan is applied only if a try is due, and schedules the next one. Undefined: an operation is
 * under way, or the sandbox runs.
 */
export function planRestoreAgain(
  view: View,
  epoch: number,
  requester: Requester,
  moment: Moment,
): Plan | undefined {
  const decision = planRequest(view, restoredBy(view.sandbox.state), requester, moment);
  if (decision.kind !== "queued") return undefined;
  const { plan } = decision;
  return { ...plan, dueRestore: epoch, effects: { ...plan.effects, triesRestore: epoch } };
}

/**
 * The plan of the request. The plan is empty when the request joins a waiting operation without
 * changing it. Undefined: there is nothing to request.
 */
function requestOf(view: View, requester: Requester, moment: Moment): Plan | undefined {
  const decision = planRequest(view, restoredBy(view.sandbox.state), requester, moment);
  switch (decision.kind) {
    case "queued":
      return decision.plan;
    case "joined":
      return decision.plan ?? planMoves(view.sandbox, []);
    default:
      return undefined;
  }
}

/**
 * Ends a delete that no host will clean up: the host is gone for good. A sweep removes what the
 * store has.
 */
export function planEndOfDebt(sandbox: Sandbox): Plan {
  const message = `Host ${sandbox.hostId} was lost and is retired: it owes no clean-up any more.`;
  const cause = { code: "HOST_RETIRED", message };
  const patch = { hostId: null, holdsMemory: false };
  return planMoves(sandbox, [{ to: "deleted", fact: "deleted", patch, cause }], {
    effects: { dropsSnapshots: true, endsRun: { epoch: sandbox.epoch, cause: cause.code } },
  });
}
