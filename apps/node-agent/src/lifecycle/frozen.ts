/**
 * A VM that the fence has frozen answers nothing: an operation that needs the VM waits until it is
 * thawed, and fails if it is not.
 */
import type { Step } from "./context.ts";
import type { Outcome } from "./outcome.ts";

/** Outcome of an operation whose VM stays frozen; undefined: the operation may continue. */
export async function stillFrozen({ deps, journal, signal }: Step): Promise<Outcome | undefined> {
  const { kind, epoch, spec } = journal.command;
  if (kind !== "pause" && kind !== "stop" && kind !== "resume") return undefined;
  const goesOn = await deps.fence.untilThawed(spec.sandboxId, epoch, signal);
  // A resume ends an unfinished VMM of an earlier attempt, and starts again.
  if (goesOn || kind === "resume") return undefined;
  const message = `The VM is frozen, because this host had lost its lease, and nobody let it go on. The ${kind} was not begun.`;
  return { state: journal.from, cancelled: signal.aborted, failed: { code: "VM_FROZEN", message } };
}
