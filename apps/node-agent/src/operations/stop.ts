/** Stop: the disk is kept, the memory is not. */
import { join } from "node:path";
import { fsyncPath } from "../host/files.ts";
import { type Step, timed } from "../lifecycle/context.ts";
import type { Outcome } from "../lifecycle/outcome.ts";
import { mayCommit } from "../lifecycle/commit.ts";
import { savedMemory } from "../lifecycle/manifest.ts";
import { findSnapshot, markUsed, removeSnapshots, snapshotDir } from "../lifecycle/snapshot.ts";

const SHUTDOWN_GRACE_MS = 20_000;

/**
 * Running or paused → stopped. The memory of a paused sandbox is dropped only if the files were
 * synced before the snapshot; else the guest runs once more, to be quiesced.
 */
export async function stop(step: Step): Promise<Outcome> {
  const { deps, vm, record, journal } = step;
  const answer = await mayCommit(step);
  if (answer.kind === "refused") {
    return {
      state: journal.from === "paused" ? "paused" : "running",
      cancelled: true,
      failed: { code: "OPERATION_CANCELLED", message: `The stop backed out: ${answer.reason}.` },
    };
  }
  if (journal.from === "paused") {
    const unsaved = await saveUnsynced(step);
    if (unsaved !== undefined) return unsaved;
  } else if (await deps.driver.isAlive(vm)) {
    await timed(step, "shutdown", async () => {
      const asked = await deps.guest.shutdown(vm, record.agentKey).then(
        () => true,
        (error: unknown) => {
          deps.log.warn(
            { err: error, sandboxId: vm.sandboxId },
            "guest refused the shutdown; its VMM was ended",
          );
          return false;
        },
      );
      await deps.driver.end(vm, { graceMs: asked ? SHUTDOWN_GRACE_MS : 0 });
    });
  }
  await deps.driver.end(vm, { graceMs: 0 });
  await fsyncPath(join(vm.dir, "disk.raw"));
  await removeSnapshots(vm.dir);
  return { state: "stopped" };
}

/** Saves the unsynced files of a paused guest. Undefined: the disk is whole without the memory. */
async function saveUnsynced(step: Step): Promise<Outcome | undefined> {
  const { deps, vm, record } = step;
  const found = await findSnapshot(vm.dir, record);
  if (
    found.kind === "none" ||
    found.kind === "used" ||
    (found.kind === "valid" && found.manifest.guestSynced)
  )
    return undefined;
  if (found.kind === "invalid") {
    return {
      state: "paused",
      failed: {
        code: "SNAPSHOT_INVALID",
        message: `Files written before the pause are in a snapshot that cannot be used: ${found.reason}. Delete the sandbox if they are not needed.`,
      },
    };
  }
  await deps.driver.end(vm, { graceMs: 0 });
  const restored = await deps.driver.restore(
    vm,
    snapshotDir(vm.dir, record.generation),
    savedMemory(found.manifest),
    step.signal,
  );
  if (restored.kind === "refused")
    return {
      state: "paused",
      failed: {
        code: "SNAPSHOT_INVALID",
        message: `The snapshot cannot be used: ${restored.reason}.`,
      },
    };
  const fenced = record.spec.onHostLoss === "restore" ? await deps.fence.refusal() : undefined;
  if (fenced !== undefined) {
    await deps.driver.end(vm, { graceMs: 0 });
    return {
      state: "paused",
      failed: {
        code: "HOST_LEASE_ENDED",
        message: `The sandbox has to run once more to save its files: ${fenced}.`,
      },
    };
  }
  await markUsed(vm.dir, record.generation);
  await deps.driver.resumeVcpus(vm);
  await deps.guest.preparePause(vm, record.agentKey);
  return undefined;
}
