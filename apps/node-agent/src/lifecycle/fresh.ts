/**
 * A fresh guest on a sandbox's disk, for create and start: restored from the golden snapshot, where
 * that fits, because a restore is many times faster than a boot; else booted. Both give a system
 * without the disk, which the guest agent attaches when it receives its identity
 * (packages/guest-agent).
 */
import { type Golden, hasSize } from "../images/golden.ts";
import { type CommitAnswer, type Step, timed } from "./context.ts";
import { messageOf } from "@torpor/service";
import { mayCommit, refusalToRun } from "./commit.ts";
import { savedMemory } from "./manifest.ts";

const GUEST_LIMIT_MS = 120_000;

/**
 * Runs a fresh guest. `restored`: the VMM has the memory already. Refused: the disk is untouched.
 * Throws if the guest does not come up; its VMM may then still run.
 */
export async function runFresh(
  step: Step,
  golden: Golden | "restored" | undefined,
  envVars?: Record<string, string>,
): Promise<CommitAnswer> {
  const { deps, vm, record, signal } = step;
  const isRestored = golden === "restored" || (await restoredFrom(step, golden));
  const answer = await mayCommit(step);
  if (answer.kind === "refused") {
    await deps.driver.end(vm, { graceMs: 0 });
    return answer;
  }
  if (isRestored) await deps.driver.resumeVcpus(vm);
  else await timed(step, "boot", () => deps.driver.boot(vm, signal, () => checkLease(step)));
  await timed(step, "greet_guest", async () => {
    if (!(await deps.guest.waitHealthy(vm, GUEST_LIMIT_MS, signal)))
      throw new Error("the guest agent did not answer");
    await deps.guest.initGuest(vm, record, envVars);
  });
  return answer;
}

/** Checks the fence again, because a booted VMM starts after the commit. */
async function checkLease(step: Step): Promise<void> {
  const reason = await refusalToRun(step);
  if (reason !== undefined) throw new Error(`it may not run: ${reason}`);
}

async function restoredFrom(step: Step, golden: Golden | undefined): Promise<boolean> {
  return (
    golden !== undefined &&
    hasSize(golden.manifest, step.record.spec.resources) &&
    (await timed(step, "restore", () => restoreGolden(step, golden)))
  );
}

/** Restores the memory. False: the guest has to boot, or the commit will refuse the operation. */
async function restoreGolden(
  { deps, vm, signal }: Step,
  { dir, manifest }: Golden,
): Promise<boolean> {
  try {
    const restored = await deps.driver.restore(vm, dir, savedMemory(manifest), signal);
    if (restored.kind === "restored") return true;
    deps.log.error(
      { sandboxId: vm.sandboxId, dir, reason: restored.reason },
      "golden snapshot could not be used; booting instead",
    );
  } catch (error) {
    if (!signal.aborted)
      deps.log.warn(
        { sandboxId: vm.sandboxId, dir, reason: messageOf(error) },
        "golden snapshot could not be restored; booting instead",
      );
  }
  return false;
}
