/**
 * A guest that begins anew on a sandbox's disk, for create and start: with the memory of the golden
 * snapshot, where it fits, because that is many times faster than a boot; else by a boot. Both give
 * the same: a system without the disk, which the guest agent attaches once it is told whose it is
 * (packages/guest-agent).
 */
import { type CommitAnswer, type Step, timed } from "./context.ts";
import { mayCommit, refusalToRun } from "./commit.ts";
import { messageOf } from "@torpor/service";
import { type Golden, hasSize } from "./golden.ts";
import { savedMemory } from "./snapshot.ts";

const GUEST_LIMIT_MS = 120_000;

/**
 * `restored`: the VMM has the memory already. Throws when the guest does not come up; the VMM may
 * then still be there. Refused: nothing has touched the disk.
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

/** This VMM was started after the commit. */
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

/** False: a boot has to do; or the operation is to back out, which is seen at the commit. */
async function restoreGolden(
  { deps, vm, signal }: Step,
  { dir, manifest }: Golden,
): Promise<boolean> {
  try {
    const restored = await deps.driver.restore(vm, dir, savedMemory(manifest), signal);
    if (restored.kind === "restored") return true;
    deps.log.error(
      { sandboxId: vm.sandboxId, dir, reason: restored.reason },
      "the golden snapshot cannot be used; booting instead",
    );
  } catch (error) {
    if (!signal.aborted)
      deps.log.warn(
        { sandboxId: vm.sandboxId, dir, reason: messageOf(error) },
        "the golden snapshot could not be restored; booting instead",
      );
  }
  return false;
}
