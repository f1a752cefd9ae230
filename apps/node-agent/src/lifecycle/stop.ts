/** Stop, start and delete: what keeps the disk, what boots it, what drops it. */
import { randomBytes } from "node:crypto";
import { rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { durableStep } from "../host/durable-step.ts";
import { fsyncPath } from "../host/files.ts";
import { findImage } from "../images.ts";
import { mayCommit, messageOf, type Outcome, type Step, timed } from "./context.ts";
import { runFresh } from "./fresh.ts";
import { findGolden } from "./golden.ts";
import { findSnapshot, markUsed, removeSnapshots, savedMemory, snapshotDir } from "./snapshot.ts";

const SHUTDOWN_GRACE_MS = 20_000;
const REMOVE_LIMIT_MS = 15_000;

/**
 * running or paused → stopped. From paused the memory is dropped, but only if the files were synced
 * before it was taken; else the guest runs once more, frozen, to sync.
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
            "the guest did not take the shutdown; its VMM is ended",
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

/** Undefined when the disk is whole without the memory. */
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

/** stopped → running: a fresh system on the sandbox's disk. */
export async function start(step: Step): Promise<Outcome> {
  const { deps, vm, record } = step;
  try {
    await deps.driver.end(vm, { graceMs: 0 });
    const image = await findImage(deps.imagesDir, record.spec.imageSha256);
    const golden = image === undefined ? undefined : await findGolden(image, deps.driver);
    const answer = await runFresh(step, golden);
    if (answer.kind === "granted") return { state: "running" };
    return {
      state: "stopped",
      cancelled: true,
      isUntouched: true,
      failed: { code: "OPERATION_CANCELLED", message: `The start backed out: ${answer.reason}.` },
    };
  } catch (error) {
    await deps.driver.end(vm, { graceMs: 0 });
    return {
      state: "stopped",
      failed: {
        code: "START_FAILED",
        message: `The sandbox did not start; its files are kept: ${messageOf(error)}`,
      },
    };
  }
}

/**
 * A store that does not answer must not keep a sandbox from being deleted (S11): whoever sweeps the
 * store finds what is left.
 */
async function removeStored({ deps, vm }: Step): Promise<void> {
  await deps.snapshots
    .remove(vm.sandboxId, AbortSignal.timeout(REMOVE_LIMIT_MS))
    .catch((err: unknown) =>
      deps.log.warn(
        { err, sandboxId: vm.sandboxId },
        "what is stored of a deleted sandbox was not removed; a sweep will",
      ),
    );
}

/** Any state → gone. `discard` leaves the shared store alone: the sandbox lives on elsewhere. */
export async function remove(step: Step): Promise<Outcome> {
  const { deps, vm, journal } = step;
  await deps.driver.end(vm, { graceMs: 0 });
  if (journal.command.kind === "delete")
    await durableStep("remove stored", () => removeStored(step));
  await deps.store.dropIncoming(vm.sandboxId);
  const trash = join(
    deps.store.dataDir,
    "trash",
    `${vm.sandboxId}.${randomBytes(4).toString("hex")}`,
  );
  await durableStep("move to trash", async () => {
    await rename(vm.dir, trash).catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    });
    await fsyncPath(join(deps.store.dataDir, "vm"));
  });
  await durableStep("empty trash", () => rm(trash, { recursive: true, force: true }));
  return { state: "deleted" };
}
