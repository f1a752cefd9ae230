/**
 * What becomes of a run that was lost with its host: it has ended, its newest stored snapshot is
 * the sandbox's state again, and it is to run elsewhere, through the door that users go through.
 * And the end of what a host owed that is gone for good.
 */
import type { Cause } from "@torpor/contracts";
import { type SandboxState, transitionSandbox } from "@torpor/state-machine";
import type { Moment } from "./commands.ts";
import { type Effects, type Plan, planMoves, planOperation } from "./plan.ts";
import { openOf, planRequest, type Requester } from "./request.ts";
import type { Sandbox, SnapshotRow, View } from "./rows.ts";
import { columnsOnEnter } from "./columns-on-enter.ts";

export interface Loss {
  hostId: string;
  /** So long after its lease has ended is its fence sure to have frozen the VM. */
  silentForMs: number;
  /** The newest that has reached the store, whether it has been run since or not. */
  snapshot: SnapshotRow;
  cause: Cause;
}

/** What brings back a sandbox that stands so. */
export const restoredBy = (state: SandboxState) => (state === "stopped" ? "start" : "resume");
/** What a sandbox is that rests on it. */
export const restsAs = ({ hasMemory }: SnapshotRow) => (hasMemory ? "paused" : "stopped");
const FACT = { paused: "is_lost", stopped: "is_stopped" } as const;

/**
 * Ends the run and asks for another one, in one plan: while it is applied the host cannot renew its
 * lease. Undefined: the state is none that is left this way. What its owner has asked for
 * meanwhile, and waits, goes before.
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
 * One more try, of a sandbox that stands still since its run of that epoch was given up for lost:
 * now, if it is due, and the next one later. Undefined: something is under way, or it runs.
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
 * The plan of the request; one that joins what waits already, and changes nothing of it, is empty.
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
 * Nobody will clean up after a deleted one: its host is gone for good. What the store has of it
 * goes with a sweep.
 */
export function planEndOfDebt(sandbox: Sandbox): Plan {
  const message = `Host ${sandbox.hostId} was lost and is retired: it owes no clean-up any more.`;
  const cause = { code: "HOST_RETIRED", message };
  const patch = { hostId: null, holdsMemory: false };
  return planMoves(sandbox, [{ to: "deleted", fact: "deleted", patch, cause }], {
    effects: { dropsSnapshots: true, endsRun: { epoch: sandbox.epoch, cause: cause.code } },
  });
}
