/** Delete, and discard: the end of a sandbox on this host. */
import { randomBytes } from "node:crypto";
import { rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { durableStep } from "../host/durable-step.ts";
import { fsyncPath } from "../host/files.ts";
import type { Step } from "../lifecycle/context.ts";
import type { Outcome } from "../lifecycle/outcome.ts";

const REMOVE_LIMIT_MS = 15_000;

/**
 * Removes the sandbox from the store. A store that does not respond must not block a delete (S11):
 * a sweep finds what is left.
 */
async function removeStored({ deps, vm }: Step): Promise<void> {
  await deps.snapshots
    .remove(vm.sandboxId, AbortSignal.timeout(REMOVE_LIMIT_MS))
    .catch((err: unknown) =>
      deps.log.warn(
        { err, sandboxId: vm.sandboxId },
        "stored files of a deleted sandbox were not removed; a sweep will",
      ),
    );
}

/** Any state → gone. `discard` leaves the store as it is: the sandbox continues elsewhere. */
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
