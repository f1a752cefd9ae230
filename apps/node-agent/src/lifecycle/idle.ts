/**
 * Idleness, the condition of an automatic pause. The host checks idleness last, because only the
 * host's check cannot be stale (S25, S54).
 */
import type { Step } from "./context.ts";
import type { Outcome } from "./outcome.ts";
import { messageOf } from "@torpor/service";

/**
 * Reason why the sandbox is in use; undefined: the pause may continue. Checks the data plane, then
 * the guest, whose background work does not pass the data plane.
 */
export async function usedOf(step: Step): Promise<string | undefined> {
  return usedThroughDataPlane(step) ?? (await usedInside(step));
}

/** The cheap half of the check, for repeating it: finds requests that came in meanwhile. */
export function usedThroughDataPlane({ deps, vm, journal }: Step): string | undefined {
  const { onlyIfIdleForMs } = journal.command;
  if (onlyIfIdleForMs === undefined) return undefined;
  const idleMs = deps.activity.idleMs(vm.sandboxId);
  return idleMs >= onlyIfIdleForMs ? undefined : `it was used ${idleMs} ms ago`;
}

async function usedInside({ deps, vm, record, journal }: Step): Promise<string | undefined> {
  const { onlyIfIdleForMs } = journal.command;
  if (onlyIfIdleForMs === undefined) return undefined;
  try {
    const seen = await deps.guest.activity(vm, record.agentKey);
    if (seen === undefined) return undefined;
    if (seen.activeExecutions > 0) return `${seen.activeExecutions} executions run in it`;
    if (seen.activeRequests > 0) return `${seen.activeRequests} requests are being answered in it`;
    return seen.lastActivityMsAgo >= onlyIfIdleForMs
      ? undefined
      : `something went on in it ${seen.lastActivityMsAgo} ms ago`;
  } catch (error) {
    // A guest that is too busy to answer is not idle.
    return `its agent did not say that it is idle: ${messageOf(error)}`;
  }
}

export function sandboxActive(why: string): Pick<Outcome, "failed" | "cancelled"> {
  return {
    cancelled: true,
    failed: { code: "SANDBOX_ACTIVE", message: `The sandbox is in use and runs on: ${why}.` },
  };
}
