/** Why a VMM is gone: what is the same for all of them. */
import { bootId } from "@torpor/service";
import type { CauseOfEnd, Vm } from "./driver.ts";
import { type ExitFacts, exitOf, lastRun, type VmmRun } from "./vmm-process.ts";

/**
 * `tell` knows the traces that a VMM leaves. `exit` is undefined for one that another process had
 * started.
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
