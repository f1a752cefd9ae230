/** Reasons for the end of a VMM that are the same for all drivers. */
import { bootId } from "@torpor/service";
import type { CauseOfEnd, Vm } from "./driver.ts";
import { type ExitFacts, exitOf, lastRun, type VmmRun } from "./vmm-process.ts";

/**
 * `tell` reads the traces that one kind of VMM leaves. `exit` is undefined if another process
 * started the VMM.
 */
export async function causeByRun(
  vm: Vm,
  tell: (run: VmmRun, exit: ExitFacts | undefined) => Promise<CauseOfEnd>,
): Promise<CauseOfEnd> {
  const run = await lastRun(vm);
  if (run === undefined)
    return { code: "VMM_ENDED", message: "No VMM has run for it on this host." };
  if (run.bootId !== bootId())
    return { code: "HOST_RESTARTED", message: "The host was restarted while the sandbox ran." };
  return await tell(run, await exitOf(vm));
}
