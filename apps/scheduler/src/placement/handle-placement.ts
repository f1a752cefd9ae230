/**
 * A dry run: where would a sandbox be placed now? The decision uses the same code and the same view
 * of the fleet as an operation, and nothing is recorded.
 */
import type { PlacementQuestion, PlacementReply } from "@torpor/contracts";
import { readSnapshot, findSandboxRow, findSnapshot } from "@torpor/db";
import { type PlacementRequest, requestToCreate, requestToReturn } from "@torpor/placement";
import type { Deps } from "../deps.ts";

const MAX_CANDIDATES = 10;

export async function handlePlacement(
  deps: Deps,
  { about }: PlacementQuestion,
): Promise<PlacementReply> {
  const ranking = await deps.placer.rank(await requestAbout(deps, about), MAX_CANDIDATES);
  return { policy: deps.placer.policy, ...ranking };
}

async function requestAbout(
  { db, placer }: Deps,
  about: PlacementQuestion["about"],
): Promise<PlacementRequest> {
  if (!("sandboxId" in about)) return await requestToCreate(db, about);
  const { sandbox, snapshot } = await readSnapshot(db, async (tx) => ({
    sandbox: await findSandboxRow(tx, about.sandboxId),
    snapshot: await findSnapshot(tx, about.sandboxId),
  }));
  if (sandbox === undefined) throw new Error(`there is no sandbox ${about.sandboxId} to be placed`);
  const kind = sandbox.settledState === "stopped" ? "start" : "resume";
  return await requestToReturn(db, {
    kind,
    sandbox,
    snapshot,
    origin: await placer.find(sandbox.hostId),
  });
}
