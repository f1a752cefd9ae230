/**
 * An operation that begins a run waits for one of the host's slots (start-slots.ts), and launches
 * nothing once it is cancelled.
 *
 * - A create requests its commit before it launches. After the commit the create ends by what the
 *   host observes, so that a deadline in the middle does not discard its work.
 * - A start or resume requests its commit before its vCPUs run: until then no user code has run.
 * LA3  If the deadline passes while an operation waits, the control plane decides: the operation
 *      may have been committed before this process began, and then it continues.
 */
import type { ObservedState } from "@torpor/contracts";
import { type Step, timed } from "./context.ts";
import type { Outcome } from "./outcome.ts";
import { mayCommit } from "./commit.ts";
import { findSnapshot } from "./snapshot.ts";
import type { GrantedSlot, StartSlots } from "./start-slots.ts";
import { CLOSING } from "./keyed-queue.ts";

/** State of the sandbox on this host if the operation launched nothing. */
const UNLAUNCHED: Partial<Record<string, ObservedState>> = {
  create: "failed",
  start: "stopped",
  resume: "paused",
};

type Operation = (step: Step) => Promise<Outcome>;
type Refusal = { kind: "refused"; failed: NonNullable<Outcome["failed"]> };

/** Runs an operation, in a slot if it launches a VM. `CLOSING`: the operation did not begin. */
export async function launch(
  step: Step,
  slots: StartSlots,
  operation: Operation,
): Promise<Outcome | typeof CLOSING> {
  const { deps, vm, journal } = step;
  const { kind, operationId } = journal.command;
  const unlaunched = UNLAUNCHED[kind];
  if (unlaunched === undefined || (await hasRun(step))) return await operation(step);
  const slot = await timed(step, "wait_for_slot", () => slotFor(step, slots));
  if (slot.kind === "closing") return CLOSING;
  if (slot.kind === "refused") return await backOut(step, unlaunched, slot.failed);
  const facts = { sandboxId: vm.sandboxId, operationId, kind };
  const { wait_for_slot: waitedMs } = step.timings;
  deps.log.info({ ...facts, ...slots.load, waitedMs }, "start began");
  try {
    const refused = kind === "create" ? await mayCommit(step) : undefined;
    if (refused?.kind === "refused")
      return await backOut(step, unlaunched, cancelled(kind, refused.reason));
    return await operation(step);
  } finally {
    slot.release();
    deps.log.info({ ...facts, ...slots.load }, "start ended");
  }
}

/** True for a resume past its point of no return: its VM runs, or has run. */
async function hasRun({ vm, record, journal }: Step): Promise<boolean> {
  if (journal.command.kind !== "resume") return false;
  return (await findSnapshot(vm.dir, record)).kind === "used";
}

async function slotFor(
  step: Step,
  slots: StartSlots,
): Promise<GrantedSlot | { kind: "closing" } | Refusal> {
  const { signal } = step;
  const { kind, deadlineAt } = step.journal.command;
  let slot = await slots.take({ signal, deadlineAtMs: Date.parse(deadlineAt) });
  if (slot.kind === "late") {
    const answer = await mayCommit(step);
    if (answer.kind === "refused")
      return { kind: "refused", failed: tooMany(kind, slots.load.startsAtOnce, 0) };
    slot = await slots.take({ signal, deadlineAtMs: Infinity });
  }
  switch (slot.kind) {
    case "granted":
    case "closing":
      return slot;
    case "hopeless":
      return { kind: "refused", failed: tooMany(kind, slots.load.startsAtOnce, slot.waitMs) };
    case "cancelled":
    case "late":
      return { kind: "refused", failed: cancelled(kind, "the operation was cancelled") };
  }
}

/** Ends the VMM of an earlier attempt; a sandbox that was at rest is still at rest. */
async function backOut(
  { deps, vm }: Step,
  state: ObservedState,
  failed: NonNullable<Outcome["failed"]>,
): Promise<Outcome> {
  await deps.driver.end(vm, { graceMs: 0 });
  return { state, isUntouched: true, cancelled: true, failed };
}

const cancelled = (kind: string, reason: string) => ({
  code: "OPERATION_CANCELLED",
  message: `The ${kind} backed out: ${reason}.`,
});

const MAX_RETRY_SECONDS = 300;

function tooMany(kind: string, startsAtOnce: number, waitMs: number) {
  const retryAfterSeconds = Math.min(MAX_RETRY_SECONDS, Math.max(1, Math.ceil(waitMs / 1000)));
  return {
    code: "RATE_LIMIT_EXCEEDED",
    message:
      `The ${kind} could not have begun in time: its host starts ${startsAtOnce} at once, and too ` +
      `many were before it. Nothing was changed; try again in ${retryAfterSeconds} s.`,
    retryAfterSeconds,
  };
}
