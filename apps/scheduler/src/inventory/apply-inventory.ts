/** Applies observations that a host repeats with each heartbeat, until the database has them. */
import type { Heartbeat, Observation, OperationId, SandboxId } from "@torpor/contracts";
import type { EntryNews } from "@torpor/db";
import type { Deps } from "../deps.ts";
import { type ApplyResult, applyObservation } from "../observations/apply-observation.ts";

/**
 * Limit for a whole heartbeat. While the database does not reply, each observation takes long to
 * fail, and the next heartbeat is on its way.
 */
const LIMIT_MS = 20_000;

/**
 * Applies the observations of a heartbeat that are news, by sandbox. One that fails does not hold
 * up the others. `goOn` gets the operations that wait for moved sandboxes. Returns the sandboxes
 * that need more work when the host reports the same again.
 */
export async function applyInventory(
  deps: Deps,
  { hostId, inventory }: Pick<Heartbeat, "hostId" | "inventory">,
  news: ReadonlyMap<SandboxId, EntryNews>,
  goOn: (operationId: OperationId) => Promise<unknown>,
): Promise<SandboxId[]> {
  const deadlineMs = performance.now() + LIMIT_MS;
  const open: SandboxId[] = [];
  for (const seen of inventory) {
    const known = news.get(seen.sandboxId);
    if (known === undefined || seen.hostId !== hostId) continue;
    if (performance.now() > deadlineMs)
      throw new Error(`the inventory of host ${hostId} took longer than ${LIMIT_MS / 1000} s`);
    const settled = await applyObservation(deps, seen, goOn).catch((err: unknown) =>
      deps.log.error(
        { err, hostId, sandboxId: seen.sandboxId },
        "observation could not be applied; the host repeats it",
      ),
    );
    if (settled === undefined || !isSaid(seen, settled, known.isLate)) open.push(seen.sandboxId);
  }
  return open;
}

/**
 * True if the same observation needs no more work, as long as its sandbox does not come to the host
 * or leave it.
 */
function isSaid(seen: Observation, settled: ApplyResult, isLate: boolean): boolean {
  if (seen.quarantined === true || seen.busyWith !== undefined) return false;
  if (settled === "applied" || settled === "nothing_new") return true;
  // A copy that is gone leads to no report.
  if (seen.state === "deleted" || seen.state === "failed")
    return settled === "stale" || settled === "unknown_sandbox";
  return isLate && settled === "stale";
}
