/**
 * Pause: running → paused. After a crash at any point the operation runs again from the top; what
 * it finds decides where it continues.
 *
 * | found | does |
 * |---|---|
 * | VMM alive, no snapshot | check idleness if required, quiesce the guest, pause the vCPUs, save |
 * | VMM alive, valid snapshot | request the commit, end the VMM |
 * | VMM gone, valid snapshot | the sandbox is paused: report |
 * | VMM gone, no valid snapshot | the memory is lost: stopped, and a start boots the disk |
 *
 * P1  Until the VMM is ended a pause that cannot finish is undone: the snapshot is removed BEFORE
 *     the vCPUs are resumed (SN3).
 */
import { mkdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import type { SavedMemory } from "../drivers/driver.ts";
import { freeBytes, removeDurably } from "../host/files.ts";
import { type Step, timed } from "../lifecycle/context.ts";
import type { Outcome } from "../lifecycle/outcome.ts";
import { mayCommit } from "../lifecycle/commit.ts";
import { messageOf } from "@torpor/service";
import { sandboxActive, usedOf, usedThroughDataPlane } from "../lifecycle/idle.ts";
import {
  factsOf,
  findSnapshot,
  removeSnapshots,
  sealSnapshot,
  snapshotDir,
  unfinishedDir,
} from "../lifecycle/snapshot.ts";

const SPARE_BYTES = 64 * 1024 ** 2;

export async function pause(step: Step): Promise<Outcome> {
  const { deps, vm } = step;
  const generation = step.record.generation + 1;
  const status = await deps.driver.inspect(vm);
  let found = await findSnapshot(vm.dir, step.record, generation);
  if (status.kind === "none")
    return found.kind === "valid" ? paused(found) : await memoryLost(step);
  if (status.kind === "unknown")
    return {
      state: "running",
      failed: { code: "VMM_UNRESPONSIVE", message: `The VMM does not answer: ${status.reason}` },
    };
  if (found.kind !== "valid") {
    const use = status.kind === "running" ? await usedOf(step) : undefined;
    if (use !== undefined) return { state: "running", ...sandboxActive(use) };
    try {
      await writeSnapshot(step, generation, status.kind);
    } catch (error) {
      return await backOut(step, generation, {
        failed: {
          code: "PAUSE_FAILED",
          message: `The pause failed and the sandbox runs on: ${messageOf(error)}`,
        },
      });
    }
    found = await findSnapshot(vm.dir, step.record, generation);
    if (found.kind !== "valid")
      return await backOut(step, generation, {
        failed: {
          code: "PAUSE_FAILED",
          message: "The snapshot was not whole after it was written; the sandbox runs on.",
        },
      });
  }
  // A request that came in while the memory was written would be lost.
  const late = usedThroughDataPlane(step);
  if (late !== undefined) return await backOut(step, generation, sandboxActive(late));
  const answer = await mayCommit(step);
  if (answer.kind === "refused")
    return await backOut(step, generation, {
      cancelled: true,
      failed: { code: "OPERATION_CANCELLED", message: `The pause backed out: ${answer.reason}.` },
    });
  await timed(step, "end_vmm", () => deps.driver.end(vm, { graceMs: 0 }));
  return paused(found);
}

function paused(
  found: Extract<Awaited<ReturnType<typeof findSnapshot>>, { kind: "valid" }>,
): Outcome {
  return { state: "paused", generation: found.manifest.generation, snapshot: factsOf(found) };
}

async function memoryLost(step: Step): Promise<Outcome> {
  const { deps, vm } = step;
  const { message } = await deps.driver.causeOfEnd(vm);
  await deps.driver.end(vm, { graceMs: 0 });
  await removeSnapshots(vm.dir);
  const failed = {
    code: "MEMORY_LOST",
    message: `The VMM ended before its memory was saved. ${message} The file system is kept: start the sandbox.`,
  };
  return { state: "stopped", failed, cause: failed };
}

async function writeSnapshot(
  step: Step,
  generation: number,
  vmmIs: "running" | "paused",
): Promise<void> {
  const { deps, vm, record } = step;
  const unfinished = unfinishedDir(vm.dir, generation);
  // An unfinished save of an earlier agent would take the space that is checked next.
  if (vmmIs === "paused") await deps.driver.callOffSave?.(vm);
  await rm(unfinished, { recursive: true, force: true });
  const need = vm.memoryMib * 1024 ** 2 + SPARE_BYTES;
  const free = await freeBytes(vm.dir);
  if (free < need)
    throw new Error(`the host's disk has ${free} bytes free and the memory image may take ${need}`);
  if (vmmIs === "running") {
    const prepared = await timed(step, "freeze_and_sync", () =>
      deps.guest.preparePause(vm, record.agentKey),
    );
    step.journal.guestSynced = prepared.synced;
    await deps.store.writeJournal(vm.sandboxId, step.journal);
    await timed(step, "pause_vcpus", () => deps.driver.pauseVcpus(vm));
  }
  step.signal.throwIfAborted();
  await mkdir(unfinished, { mode: 0o700 });
  const saved = await timed(step, "save_memory", () =>
    deps.driver.saveMemory(vm, unfinished, step.signal),
  );
  await timed(step, "seal_snapshot", () => seal(step, generation, saved));
}

async function seal(step: Step, generation: number, saved: SavedMemory): Promise<void> {
  const { vm, record } = step;
  await sealSnapshot(vm.dir, {
    format: 1,
    sandboxId: vm.sandboxId,
    generation,
    epoch: record.epoch,
    driverFingerprint: saved.fingerprint,
    imageSha256: record.spec.imageSha256,
    vcpu: vm.vcpu,
    memoryMib: vm.memoryMib,
    files: saved.files,
    diskSizeBytes: (await stat(join(vm.dir, "disk.raw"))).size,
    guestSynced: step.journal.guestSynced === true,
    createdAt: new Date().toISOString(),
  });
}

/** Undoes the pause: back to running, nothing lost (P1). */
async function backOut(
  step: Step,
  generation: number,
  why: Pick<Outcome, "failed" | "cancelled">,
): Promise<Outcome> {
  const { deps, vm, record } = step;
  await removeDurably(snapshotDir(vm.dir, generation));
  await removeDurably(unfinishedDir(vm.dir, generation));
  const status = await deps.driver.inspect(vm);
  if (status.kind === "none") return await memoryLost(step);
  if (status.kind === "paused") await deps.driver.resumeVcpus(vm);
  await deps.guest
    .thaw(vm, record.agentKey)
    .catch((error: unknown) =>
      deps.log.warn(
        { err: error, sandboxId: vm.sandboxId },
        "guest could not be released from its quiescence",
      ),
    );
  return { state: "running", ...why };
}
