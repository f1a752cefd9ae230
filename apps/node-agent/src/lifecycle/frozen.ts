/**
 * A VM that the fence has frozen answers nothing: an operation that speaks to it waits until it
 * goes on, and gives up when it does not.
 */
import type { Outcome, Step } from "./context.ts";

/** Undefined: nothing is in the way. */
export async function stillFrozen({ deps, journal, signal }: Step): Promise<Outcome | undefined> {
  const { kind, epoch, spec } = journal.command;
  if (kind !== "pause" && kind !== "stop" && kind !== "resume") return undefined;
  const goesOn = await deps.fence.untilThawed(spec.sandboxId, epoch, signal);
  // What a resume began, and did not finish, it ends and begins anew.
  if (goesOn || kind === "resume") return undefined;
  const message = `The VM is frozen, because this host had lost its lease, and nobody let it go on. The ${kind} was not begun.`;
  return { state: journal.from, cancelled: signal.aborted, failed: { code: "VM_FROZEN", message } };
}
