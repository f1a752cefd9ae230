/**
 * The copy of a sandbox in the store: asked for by the control plane, and what came of it
 * (replication.ts makes it).
 */
import type { Cause, SnapshotFacts, VmCommand } from "@torpor/contracts";
import type { Submitted } from "./context.ts";
import type { VmRecord } from "./record.ts";
import type { CopyName, ReplicationEvents } from "./replication.ts";
import type { Host, Sandboxes } from "./sandboxes.ts";

/**
 * It has no order of its own: the run that it means is the newest here, and stands still. Its epoch
 * may be higher: the sandbox was sent elsewhere from here, and came back. Known once it is in the
 * record.
 */
export async function replicate(
  { deps, sandboxes, replication }: Host,
  command: VmCommand,
): Promise<Submitted> {
  const { sandboxId } = command.spec;
  return await sandboxes.queue.run(sandboxId, async () => {
    const entry = sandboxes.find(sandboxId);
    if (entry === undefined) return "ignored";
    const { record } = entry;
    if (entry.journal !== undefined || record.epoch > command.epoch || record.opSeq > command.opSeq)
      return "stale";
    if (record.state !== "paused" && record.state !== "stopped") return "ignored";
    if (typeof record.snapshot?.storeKey === "string") {
      sandboxes.reportAgain(entry);
      return "repeated";
    }
    const { maxBytesPerSecond } = command;
    record.replication = maxBytesPerSecond === undefined ? {} : { maxBytesPerSecond };
    delete record.replicationFailed;
    await deps.store.write(record);
    replication.start(record);
    return "journalled";
  });
}

export function notesOf(sandboxes: Sandboxes): ReplicationEvents {
  return {
    stored: (sandboxId, facts, done) =>
      sandboxes.note(sandboxId, (record) => noteStored(record, facts), done),
    failed: (sandboxId, name, cause, done) =>
      sandboxes.note(sandboxId, (record) => noteNotStored(record, name, cause), done),
  };
}

function noteStored(record: VmRecord, facts: SnapshotFacts): boolean {
  if (!isAbout(record, facts)) return false;
  record.snapshot = facts;
  record.generation = facts.generation;
  delete record.replication;
  delete record.replicationFailed;
  return true;
}

function noteNotStored(record: VmRecord, name: CopyName, cause: Cause): boolean {
  if (record.state === "running" || !isAbout(record, name)) return false;
  record.replicationFailed = cause;
  return true;
}

/**
 * Whether news of that copy is still of interest: it is of what the sandbox rests on, or last ran
 * from.
 */
function isAbout({ state, snapshot, generation }: VmRecord, name: CopyName): boolean {
  // Stopped by an agent that gave disks no name.
  if (state === "stopped" && snapshot === undefined) return name.generation === generation + 1;
  if (state === "paused" || state === "stopped")
    return snapshot?.manifestSha256 === name.manifestSha256;
  return state === "running" && name.generation === generation;
}
