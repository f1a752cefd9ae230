/** A heartbeat repeats what its host has observed of sandboxes, until the database has it. */
import type { Heartbeat, Observation } from "@torpor/contracts";
import type { EntryNews } from "@torpor/db";
import type { Deps } from "../deps.ts";
import { type ApplyResult, applyObservation } from "../apply-observation.ts";

/**
 * Of all of a beat: while the database does not answer, each of them takes long to fail, and the
 * next beat is on its way.
 */
const LIMIT_MS = 20_000;

/**
 * Settles those observations of a beat that are news, by sandbox. One that cannot be settled does
 * not keep the others from it. `goOn` is given what waits for sandboxes that were moved. Returns
 * the sandboxes about which there is still something to say when the host shows the same again.
 */
export async function applyInventory(
  deps: Deps,
  { hostId, inventory }: Pick<Heartbeat, "hostId" | "inventory">,
  news: ReadonlyMap<string, EntryNews>,
  goOn: (operationId: string) => Promise<unknown>,
): Promise<string[]> {
  const deadlineMs = performance.now() + LIMIT_MS;
  const open: string[] = [];
  for (const seen of inventory) {
    const known = news.get(seen.sandboxId);
    if (known === undefined || seen.hostId !== hostId) continue;
    if (performance.now() > deadlineMs)
      throw new Error(`the inventory of host ${hostId} took longer than ${LIMIT_MS / 1000} s`);
    const settled = await applyObservation(deps, seen, goOn).catch((err: unknown) =>
      deps.log.error(
        { err, hostId, sandboxId: seen.sandboxId },
        "an observation could not be settled; the host repeats it",
      ),
    );
    if (settled === undefined || !isSaid(seen, settled, known.isLate)) open.push(seen.sandboxId);
  }
  return open;
}

/**
 * Whether the same observation says nothing more, as long as its sandbox does not come to the host
 * or leave it.
 */
function isSaid(seen: Observation, settled: ApplyResult, isLate: boolean): boolean {
  if (seen.quarantined === true || seen.busyWith !== undefined) return false;
  if (settled === "applied" || settled === "nothing_new") return true;
  // Of a copy that is not there any more nothing is reported.
  if (seen.state === "deleted" || seen.state === "failed")
    return settled === "stale" || settled === "unknown_sandbox";
  return isLate && settled === "stale";
}
