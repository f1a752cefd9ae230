/**
 * A copy that the control plane knows nothing of, or knows to have run on elsewhere. Its vCPUs
 * stand still, and the data plane knows no way to it.
 */
import type { VmCommand } from "@torpor/contracts";
import type { LifecycleDeps, Submitted } from "./context.ts";
import type { Journal, VmRecord } from "./record.ts";
import type { Host } from "./sandboxes.ts";
import { look, resumePausedVcpus } from "./watch.ts";

/**
 * It has no order of its own: the run that it means is the newest here. Known once it is in the
 * record.
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
    if ((record.quarantined === true) === (kind === "quarantine")) {
      sandboxes.reportAgain(entry);
      return "repeated";
    }
    deps.log.warn(
      { sandboxId: spec.sandboxId, epoch, kind },
      "a VM is quarantined, or is so no longer",
    );
    delete record.operation;
    if (kind === "quarantine") record.quarantined = true;
    else delete record.quarantined;
    await sandboxes.persist(record);
    await look(host, entry);
    return "journalled";
  });
}

/**
 * The control plane goes on with it: it is a stray no longer. What ends it anyway does so without
 * another instruction of the guest's.
 */
export async function endQuarantine(
  deps: LifecycleDeps,
  record: VmRecord,
  { command }: Journal,
): Promise<void> {
  delete record.quarantined;
  const vm = deps.store.vmOf(record);
  if (command.kind === "discard" || command.kind === "delete") return;
  if ((await deps.driver.inspect(vm)).kind === "paused") await resumePausedVcpus(deps, vm, record);
}
