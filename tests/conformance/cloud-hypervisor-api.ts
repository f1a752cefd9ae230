/**
 * What Torpor relies on in Cloud Hypervisor v53.0, one case per fact, for the fake and the real one
 * alike. `source` is the section of the design's collection of facts. Nothing here needs more than
 * Node: run.ts runs it where there is nothing else. A case asserts by throwing; it says why it
 * cannot be tried here by returning a reason.
 */
import { bootCases } from "./cases/boot.ts";
import { httpCases } from "./cases/http.ts";
import { processCases } from "./cases/process.ts";
import { restoreCases } from "./cases/restore.ts";
import { snapshotCases } from "./cases/snapshot.ts";
import { stateCases } from "./cases/state.ts";
import { vsockCases } from "./cases/vsock.ts";
import { type Case, Stage, type StageTarget } from "./support/stage.ts";

export const CASES: Case[] = [
  ...httpCases,
  ...stateCases,
  ...bootCases,
  ...snapshotCases,
  ...restoreCases,
  ...processCases,
  ...vsockCases,
];

/** Runs one case in a directory of its own. A text says why it was skipped. */
export async function runCase(
  target: StageTarget,
  { needsVm, run }: Case,
): Promise<string | undefined> {
  if (needsVm && target.noVm !== undefined) return target.noVm;
  const stage = await Stage.open(target);
  try {
    return (await run(stage)) ?? undefined;
  } finally {
    await stage.close();
  }
}
