/**
 * The command to copy a sandbox to the store, and the results of such copies (replication.ts makes
 * them).
 */
import type { VmCommand } from "@torpor/contracts";
import type { Submitted } from "./context.ts";
import { notStored, replicating, snapshotOf, stored, type VmRecord } from "./record.ts";
import type { CopyName, ReplicationEvents } from "./replication.ts";
import type { Host, Sandboxes } from "./sandboxes.ts";

/**
 * Requests the copy of a sandbox at rest. The command has no order of its own: it names the newest
 * run on this host, and is journalled once the record is written. The command's epoch may be higher
 * than the record's: the sandbox was sent elsewhere, and came back.
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
    if (typeof snapshotOf(record)?.storeKey === "string") {
      sandboxes.reportAgain(entry);
      return "repeated";
    }
    const requested = replicating(record, command.maxBytesPerSecond);
    await deps.store.write(requested);
    entry.record = requested;
    replication.start(requested);
    return "journalled";
  });
}

export function notesOf(sandboxes: Sandboxes): ReplicationEvents {
  return {
    stored: (sandboxId, facts, done) =>
      sandboxes.note(
        sandboxId,
        (record) => (isAbout(record, facts) ? stored(record, facts) : undefined),
        done,
      ),
    failed: (sandboxId, name, cause, done) =>
      sandboxes.note(
        sandboxId,
        (record) =>
          record.state !== "running" && isAbout(record, name)
            ? notStored(record, cause)
            : undefined,
        done,
      ),
  };
}

/**
 * True if a result of that copy still matters: the sandbox rests on that snapshot, or last ran from
 * it.
 */
function isAbout(record: VmRecord, name: CopyName): boolean {
  const { state, generation } = record;
  const snapshot = snapshotOf(record);
  // Stopped by an older agent, which gave disks no name.
  if (state === "stopped" && snapshot === undefined) return name.generation === generation + 1;
  if (state === "paused" || state === "stopped")
    return snapshot?.manifestSha256 === name.manifestSha256;
  return state === "running" && name.generation === generation;
}
