/**
 * Resume: paused → running. Up to the point of no return the operation can be repeated any number
 * of times: no vCPU has run, and the disk is untouched.
 *
 * | found | does |
 * |---|---|
 * | valid snapshot | end an earlier VMM, restore, verify, commit, mark it used, resume the vCPUs |
 * | used snapshot, VMM alive | continue: resume the vCPUs, renew the guest's identity |
 * | used snapshot, VMM gone | may have run: never restored; stopped, and a start boots the disk |
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { SavedMemory } from "../drivers/driver.ts";
import { type Step, timed } from "../lifecycle/context.ts";
import type { Outcome } from "../lifecycle/outcome.ts";
import { mayCommit } from "../lifecycle/commit.ts";
import { messageOf } from "@torpor/service";
import { savedMemory } from "../lifecycle/manifest.ts";
import { findSnapshot, markUsed, removeSnapshots, snapshotDir } from "../lifecycle/snapshot.ts";

const GUEST_LIMIT_MS = 60_000;
const DYING_LIMIT_MS = 2_000;
const DYING_POLL_MS = 20;

export async function resume(step: Step): Promise<Outcome> {
  const { deps, vm, record } = step;
  const found = await findSnapshot(vm.dir, record);
  if (found.kind === "used") return await afterRun(step);
  if (found.kind !== "valid")
    return stillPaused(
      "SNAPSHOT_INVALID",
      `The snapshot cannot be used: ${found.kind === "invalid" ? found.reason : "it is not on this host"}.`,
    );
  const incompatible = await deps.driver.refusal(found.manifest.driverFingerprint);
  if (incompatible !== undefined)
    return stillPaused(
      "SNAPSHOT_INCOMPATIBLE",
      `The snapshot cannot be restored on this host: ${incompatible}.`,
    );
  await deps.driver.end(vm, { graceMs: 0 });
  const refused = await timed(step, "restore", () => restore(step, savedMemory(found.manifest)));
  if (refused !== undefined) return refused;
  const answer = await mayCommit(step);
  if (answer.kind === "refused") {
    await deps.driver.end(vm, { graceMs: 0 });
    return {
      ...stillPaused("OPERATION_CANCELLED", `The resume backed out: ${answer.reason}.`),
      cancelled: true,
    };
  }
  await markUsed(vm.dir, record.generation);
  return await afterRun(step);
}

async function restore(step: Step, saved: SavedMemory): Promise<Outcome | undefined> {
  const { deps, vm, record } = step;
  try {
    const restored = await deps.driver.restore(
      vm,
      snapshotDir(vm.dir, record.generation),
      saved,
      step.signal,
    );
    return restored.kind === "refused"
      ? stillPaused("SNAPSHOT_INVALID", `The snapshot cannot be used: ${restored.reason}.`)
      : undefined;
  } catch (error) {
    await deps.driver.end(vm, { graceMs: 0 });
    return stillPaused(
      "RESUME_FAILED",
      `The VMM could not be started; the snapshot is untouched: ${messageOf(error)}`,
    );
  }
}

/** Steps past the point of no return. */
async function afterRun(step: Step): Promise<Outcome> {
  const { deps, vm } = step;
  const status = await deps.driver.inspect(vm);
  if (status.kind === "none") return await memoryLost(step);
  try {
    await runGuest(step, status.kind === "paused");
  } catch (error) {
    if (await staysAlive(step)) throw error;
    return await memoryLost(step);
  }
  return { state: "running" };
}

/** A VMM that was killed closes its connections a moment before the kernel reports its end. */
async function staysAlive({ deps, vm }: Step): Promise<boolean> {
  const deadline = performance.now() + DYING_LIMIT_MS;
  while (await deps.driver.isAlive(vm)) {
    if (performance.now() > deadline) return true;
    await sleep(DYING_POLL_MS);
  }
  return false;
}

async function runGuest(step: Step, isVcpusPaused: boolean): Promise<void> {
  const { deps, vm, record } = step;
  if (isVcpusPaused) await timed(step, "run_vcpus", () => deps.driver.resumeVcpus(vm));
  await timed(step, "greet_guest", async () => {
    await deps.guest.waitHealthy(vm, GUEST_LIMIT_MS, new AbortController().signal);
    await deps.guest.reinitGuest(vm, record);
  });
}

async function memoryLost({ deps, vm }: Step): Promise<Outcome> {
  const { message } = await deps.driver.causeOfEnd(vm);
  await deps.driver.end(vm, { graceMs: 0 });
  await removeSnapshots(vm.dir);
  const failed = {
    code: "MEMORY_LOST",
    message: `The VMM ended after it had begun to run. ${message} The file system is kept: start the sandbox.`,
  };
  return { state: "stopped", failed, cause: failed };
}

function stillPaused(code: string, message: string): Outcome {
  return { state: "paused", failed: { code, message } };
}
