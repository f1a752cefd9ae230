/** A dry run: where would it be placed now? Decided by the same code and the same picture of the fleet as an operation, and nothing is kept of it. */
import type { PlacementQuestion, PlacementReply } from "@torpor/contracts";
import { findSandboxRow, findSnapshot } from "@torpor/db";
import { type PlacementRequest, requestToCreate, requestToReturn } from "@torpor/placement";
import type { Deps } from "./deps.ts";

const MAX_CANDIDATES = 10;

export async function answerPlacement(deps: Deps, { about }: PlacementQuestion): Promise<PlacementReply> {
  const ranking = await deps.placer.rank(await requestAbout(deps, about), MAX_CANDIDATES);
  return { policy: deps.placer.policy, ...ranking };
}

async function requestAbout({ db, placer }: Deps, about: PlacementQuestion["about"]): Promise<PlacementRequest> {
  if (!("sandboxId" in about)) return await requestToCreate(db, about);
  const sandbox = await findSandboxRow(db, about.sandboxId);
  if (sandbox === undefined) throw new Error(`there is no sandbox ${about.sandboxId} to be placed`);
  const kind = sandbox.settledState === "stopped" ? "start" : "resume";
  const [snapshot, origin] = await Promise.all([findSnapshot(db, sandbox.id), placer.find(sandbox.hostId)]);
  return await requestToReturn(db, { kind, sandbox, snapshot, origin });
}
