/**
 * Plans how a waiting operation begins. The intents consumer, the observations consumer (when the
 * operation before it has ended) and a reconciler call `planBegin`. Each may come first, twice or
 * never: the rows decide.
 */
import { type HostId, subjects, type VmCommand } from "@torpor/contracts";
import { isTombstoned, transitionSandbox } from "@torpor/state-machine";
import { commandFor, type Moment, type SnapshotSource } from "./commands.ts";
import { type Apart, type Plan, type PlacedHost, planMoves, planOperation } from "./plan.ts";
import type { Operation, Sandbox, SnapshotRow, View } from "./rows.ts";

export type BeginDecision =
  /** The operation does not wait (any more). */
  | { kind: "nothing" }
  /** Another operation executes. */
  | { kind: "waits" }
  /** The operation ends without a command, or with one that needs no choice of a host. */
  | { kind: "ends"; plan: Plan }
  /** The operation begins once its host is chosen (`planAssignment`). */
  | { kind: "needs_host"; operation: Operation };

/** Decides about the operation in `view.named.operation`. */
export function planBegin(view: View, moment: Moment): BeginDecision {
  const { sandbox, executing } = view;
  const { operation } = view.named;
  if (operation === undefined || operation.status !== "waiting") return { kind: "nothing" };
  if (operation.kind === "delete")
    return { kind: "ends", plan: planDelete(view, operation, moment) };
  if (executing !== undefined) return { kind: "waits" };
  if (operation.kind === "create") {
    return sandbox.state === "creating"
      ? { kind: "needs_host", operation }
      : { kind: "ends", plan: planEnd(sandbox, operation, "refused") };
  }
  const transition = transitionSandbox(sandbox.state, operation.kind);
  if (transition.kind === "move") return { kind: "needs_host", operation };
  const how = transition.kind === "stay" ? "satisfied" : "refused";
  return { kind: "ends", plan: planEnd(sandbox, operation, how) };
}

/**
 * Plan for a sandbox that changed after the acceptance: it has already reached the target, or can
 * no longer reach it.
 */
function planEnd(sandbox: Sandbox, operation: Operation, how: "satisfied" | "refused"): Plan {
  const { id, kind } = operation;
  const error = {
    code: "CONFLICT",
    message: `The sandbox became ${sandbox.state} before the ${kind} could begin.`,
  };
  const ended =
    how === "satisfied" ? planOperation(id, "succeed") : planOperation(id, "fail", { error });
  const move = {
    to: sandbox.state,
    fact: `${kind}_${how}` as const,
    operation: { id, status: ended.patch.status },
    cause: how === "refused" ? error : undefined,
  };
  return planMoves(sandbox, [move], { operations: [ended] });
}

/**
 * Sets the tombstone at once, whatever executes. `deleting` means that the clean-up is pending: the
 * sandbox keeps its reservations until the host confirms the clean-up.
 */
function planDelete({ sandbox, executing }: View, operation: Operation, { now }: Moment): Plan {
  const error = { code: "OPERATION_SUPERSEDED", message: "The sandbox was deleted meanwhile." };
  const ended = planOperation(operation.id, "succeed");
  const operations = [
    ...(executing === undefined ? [] : [planOperation(executing.id, "cancel", { error })]),
    ended,
  ];
  if (isTombstoned(sandbox.state)) return planMoves(sandbox, [], { operations });
  const { hostId } = sandbox;
  const opSeq = sandbox.opSeq + 1;
  const tombstone = {
    to: "deleting" as const,
    fact: "delete_accepted" as const,
    patch: { opSeq, expiresAt: null, endedAt: now },
    operation: { id: operation.id, status: ended.patch.status },
  };
  // The sandbox never reached a host: there is nothing to clean up.
  if (hostId === null)
    return planMoves(sandbox, [tombstone, { to: "deleted", fact: "deleted" }], { operations });
  const epoch = Math.max(1, sandbox.epoch);
  const payload = commandFor(operation, sandbox, { hostId, epoch, opSeq });
  const command = { subject: subjects.command(hostId, "delete"), payload, traceId: null };
  return planMoves(sandbox, [tombstone], { operations, messages: [command] });
}

export interface Assignment {
  hostId: HostId;
  /** The host that holds the snapshot to fetch to `hostId`, if that host lives. */
  source?: SnapshotSource | undefined;
  /**
   * The chosen host, for a new run of a VMM or a new place. The epoch rises, so that late messages
   * of the old run are recognized. Undefined: the operation happens where the sandbox is.
   */
  placed?: PlacedHost | undefined;
  holdsMemory: boolean;
}

/** An unsynced snapshot has to run once more to save its files, so it needs its memory back. */
export function needsMemory(
  sandbox: Pick<Sandbox, "settledState">,
  snapshot?: SnapshotRow,
): boolean {
  return sandbox.settledState === "running" || snapshot?.guestSynced === false;
}

/** `finish` adds to the command what the rows do not have: environment variables. */
export function planAssignment(
  { sandbox, snapshot }: View,
  operation: Operation,
  { hostId, source, placed, holdsMemory }: Assignment,
  { now }: Moment,
  finish: (command: VmCommand) => unknown = (command) => command,
): Plan {
  const { kind } = operation;
  const epoch = sandbox.epoch + (placed === undefined ? 0 : 1);
  const opSeq = sandbox.opSeq + 1;
  const transition = kind === "create" ? undefined : transitionSandbox(sandbox.state, kind);
  const { onlyIfIdleForMs, pinnedHostId, maxBytesPerSecond, deadlineAt } = operation;
  const begun = {
    ...planOperation(operation.id, "begin", {
      hostId,
      originHostId: sandbox.hostId,
      epoch,
      opSeq,
      startedAt: now,
    }),
    terms: { onlyIfIdleForMs, pinnedHostId, maxBytesPerSecond, deadlineAt },
  };
  const command = commandFor(operation, sandbox, {
    hostId,
    epoch,
    opSeq,
    snapshot: placed === undefined ? undefined : snapshot,
    source,
  });
  const move = {
    to: transition?.kind === "move" ? transition.to : sandbox.state,
    fact: `${kind}_assigned` as const,
    patch: {
      epoch,
      opSeq,
      hostId,
      originHostId: hostId === sandbox.hostId ? null : sandbox.hostId,
      holdsMemory,
    },
    operation: { id: operation.id, status: begun.patch.status },
  };
  const subject = subjects.command(hostId, command.kind);
  return planMoves(sandbox, [move], {
    operations: [begun],
    placed: placed === undefined ? null : judged(placed),
    apart: placed === undefined ? null : apartOn(sandbox, hostId),
    effects:
      placed === undefined ? {} : { beginsRun: { epoch, hostId, onHostLoss: sandbox.onHostLoss } },
    messages: [{ subject, payload: finish(command), traceId: operation.traceId }],
  });
}

/** Only what the database compares of the host: the plan must not contain the host's secrets. */
const judged = ({ id, state, hasFence, registeredAt }: PlacedHost): PlacedHost => ({
  id,
  state,
  hasFence,
  registeredAt,
});

function apartOn(sandbox: Sandbox, hostId: HostId): Apart | null {
  const { organizationId, antiAffinity: key } = sandbox;
  return key === null || sandbox.hostId === hostId ? null : { organizationId, key, hostId };
}
