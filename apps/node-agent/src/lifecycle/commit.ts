/** The commit protocol of a host: nothing irreversible without an answer (decision 3). */
import { type CommitAnswer, type Step, timed } from "./context.ts";
import type { Journal } from "./record.ts";

/**
 * Requests the commit of the step's operation; an operation that was told to back out does not
 * even request it. A run that the fence has to guard does not begin without the fence, nor past the
 * lease: the fence is asked again after the answer, which may have taken long. From here on the
 * fence knows the VMM: a host whose lease ends before the vCPUs run freezes the VM, and they do not
 * run.
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
 * Whether the operation runs a VM that did not run before. A stop may have to let a paused guest
 * save its files.
 */
export function takesMemory({ command: { kind }, from }: Journal): boolean {
  return BEGINS_RUN.has(kind) || (kind === "stop" && from === "paused");
}

/** Why this operation may not let vCPUs run that the fence has to guard. */
export async function refusalToRun({ deps, journal }: Step): Promise<string | undefined> {
  const { kind, spec } = journal.command;
  return spec.onHostLoss === "restore" && BEGINS_RUN.has(kind)
    ? await deps.fence.refusal()
    : undefined;
}
