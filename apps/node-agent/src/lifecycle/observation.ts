/** Observation of one sandbox, made from its record. */
import type { Observation } from "@torpor/contracts";
import { residentBytes } from "@torpor/service";
import type { Journal, VmRecord } from "./record.ts";

export interface Observed {
  record: VmRecord;
  journal?: Journal;
  vmm?: Observation["vmm"];
}

export function observationOf(hostId: string, { record, journal, vmm }: Observed): Observation {
  const { operation, cause, condition, quarantined, snapshot, replicationFailed, timingsMs } =
    record;
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
    ...(cause === undefined ? {} : { cause }),
    ...(condition === undefined ? {} : { condition }),
    ...(quarantined === undefined ? {} : { quarantined }),
    ...(snapshot === undefined ? {} : { snapshot }),
    ...(replicationFailed === undefined ? {} : { replicationFailed }),
    ...(timingsMs === undefined ? {} : { timingsMs }),
    ...(vmm === undefined ? {} : { vmm: { pid: vmm.pid, residentBytes: residentBytes(vmm.pid) } }),
    ...(journal === undefined && record.revision > 0
      ? {}
      : { busyWith: journal?.command.operationId ?? `op_${"0".repeat(32)}` }),
  };
}
