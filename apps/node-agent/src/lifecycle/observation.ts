/** Observation of one sandbox, made from its record. */
import { type HostId, NO_OPERATION_ID, type Observation } from "@torpor/contracts";
import { given, residentBytes } from "@torpor/service";
import type { Journal, VmRecord } from "./record.ts";

export interface Observed {
  record: VmRecord;
  journal?: Journal;
  vmm?: Observation["vmm"];
}

export function observationOf(hostId: HostId, { record, journal, vmm }: Observed): Observation {
  const { operation, timingsMs } = record;
  return {
    type: "observation",
    version: 1,
    hostId,
    sandboxId: record.spec.sandboxId,
    epoch: record.epoch,
    opSeq: record.opSeq,
    revision: Math.max(1, record.revision),
    state: record.state,
    observedAt: record.observedAt,
    ...(operation === undefined ? {} : { operation }),
    ...ofState(record),
    ...(timingsMs === undefined ? {} : { timingsMs }),
    ...(vmm === undefined ? {} : { vmm: { pid: vmm.pid, residentBytes: residentBytes(vmm.pid) } }),
    ...(journal === undefined && record.revision > 0
      ? {}
      : { busyWith: journal?.command.operationId ?? NO_OPERATION_ID }),
  };
}

/** What only the sandbox's state has, as far as the control plane is told. */
function ofState(
  record: VmRecord,
): Pick<Observation, "cause" | "condition" | "quarantined" | "snapshot" | "replicationFailed"> {
  const { cause, condition, quarantined, snapshot, replicationFailed } =
    record as Partial<Observation>;
  return given({ cause, condition, quarantined, snapshot, replicationFailed });
}
