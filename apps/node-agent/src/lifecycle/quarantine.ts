/**
 * Quarantine of a VM that is an orphan, or whose sandbox has continued elsewhere: its vCPUs are
 * paused, and the data plane does not route to it.
 */
import type { VmCommand } from "@torpor/contracts";
import type { LifecycleDeps, Submitted } from "./context.ts";
import { isQuarantined, type Journal, type VmRecord, withQuarantine } from "./record.ts";
import type { Host } from "./sandboxes.ts";
import { look, resumePausedVcpus } from "./watch.ts";

/**
 * Begins or ends the quarantine of the newest run on this host. The command has no order of its
 * own, and is journalled once the record is written.
 */
export async function setQuarantined(
  host: Host,
  { kind, spec, epoch, opSeq }: VmCommand,
): Promise<Submitted> {
  const { deps, sandboxes } = host;
  return await sandboxes.queue.run(spec.sandboxId, async () => {
    const entry = sandboxes.find(spec.sandboxId);
    if (entry === undefined) return "ignored";
    const { record, journal } = entry;
    if (journal !== undefined || record.epoch !== epoch || record.opSeq !== opSeq) return "stale";
    if (record.state !== "running") return "ignored";
    if (isQuarantined(record) === (kind === "quarantine")) {
      sandboxes.reportAgain(entry);
      return "repeated";
    }
    deps.log.warn({ sandboxId: spec.sandboxId, epoch, kind }, "quarantine of a VM changed");
    await sandboxes.persist(entry, withQuarantine(record, kind === "quarantine"));
    await look(host, entry);
    return "journalled";
  });
}

/**
 * Ends the quarantine when a command continues with the VM, which is no orphan any more. A discard
 * or delete ends the VM without another instruction of the guest.
 */
export async function endQuarantine(
  deps: LifecycleDeps,
  record: VmRecord,
  { command }: Journal,
): Promise<void> {
  const vm = deps.store.vmOf(record);
  if (command.kind === "discard" || command.kind === "delete") return;
  if ((await deps.driver.inspect(vm)).kind === "paused") await resumePausedVcpus(deps, vm, record);
}
