/**
 * What Torpor relies on in Cloud Hypervisor v53.0, one case per fact, for the fake and the real one
 * alike. `source` is the section of the design's collection of facts. The cases need only Node:
 * run.ts runs them where there is nothing else. A case throws when it fails, and returns a reason
 * when it cannot be tried here.
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

/** Runs one case in a directory of its own. Returns the reason if the case was skipped. */
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
