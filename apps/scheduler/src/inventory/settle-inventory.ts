/** A beat repeats the newest observation of every sandbox of its host, until the database has it. */
import type { Heartbeat } from "@torpor/contracts";
import type { Deps } from "../deps.ts";
import { settleObservation } from "../settle-observation.ts";

/** Of all of a beat: while the database does not answer, each of them takes long to fail, and the next beat is on its way. */
const LIMIT_MS = 20_000;

/** One that cannot be settled does not keep the others from it. `goOn` is given what waits for sandboxes that were moved. */
export async function settleInventory(
  deps: Deps,
  { hostId, inventory }: Heartbeat,
  goOn: (operationId: string) => Promise<unknown>,
): Promise<void> {
  const deadlineMs = performance.now() + LIMIT_MS;
  for (const seen of inventory) {
    if (seen.hostId !== hostId) continue;
    if (performance.now() > deadlineMs) throw new Error(`the inventory of host ${hostId} took longer than ${LIMIT_MS / 1000} s`);
    await settleObservation(deps, seen, goOn).catch((err: unknown) =>
      deps.log.error({ err, hostId, sandboxId: seen.sandboxId }, "an observation could not be settled; the host repeats it"),
    );
  }
}
