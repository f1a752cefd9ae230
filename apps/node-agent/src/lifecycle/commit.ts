/**
 * Commit protocol of a host: nothing irreversible happens before the commit is granted (decision
 * 3).
 */
import { type CommitAnswer, type Step, timed } from "./context.ts";
import type { Journal } from "./record.ts";

/**
 * Requests the commit of the step's operation; a cancelled operation is refused without a request.
 * A run that the fence guards does not begin without the fence, nor past the lease: both are
 * checked again after the reply, which may have taken long. From here on the fence knows the VMM:
 * if the lease ends before the vCPUs run, the fence freezes the VM.
 */
export async function mayCommit(step: Step): Promise<CommitAnswer> {
  if (step.signal.aborted) return { kind: "refused", reason: "the operation was cancelled" };
  const { operationId, epoch, opSeq, spec } = step.journal.command;
  const early = await refusalToRun(step);
  if (early !== undefined) return { kind: "refused", reason: early };
  const answer = await timed(step, "ask_commit", () =>
    step.deps.commit({ sandboxId: spec.sandboxId, operationId, epoch, opSeq }),
  );
  const late = answer.kind === "granted" ? await refusalToRun(step) : undefined;
  return late === undefined ? answer : { kind: "refused", reason: late };
}

const BEGINS_RUN: ReadonlySet<string> = new Set(["create", "resume", "start"]);

/**
 * True if the operation runs a VM that did not run before. A stop may have to run a paused guest so
 * that the guest saves its files.
 */
export function takesMemory({ command: { kind }, from }: Journal): boolean {
  return BEGINS_RUN.has(kind) || (kind === "stop" && from === "paused");
}

/** Reason why the operation may not run vCPUs that the fence guards; undefined: it may. */
export async function refusalToRun({ deps, journal }: Step): Promise<string | undefined> {
  const { kind, spec } = journal.command;
  return spec.onHostLoss === "restore" && BEGINS_RUN.has(kind)
    ? await deps.fence.refusal()
    : undefined;
}
