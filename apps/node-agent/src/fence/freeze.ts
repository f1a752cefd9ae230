/**
 * Freezes and thaws a VMM: by its cgroup if it has one, else by SIGSTOP and SIGCONT. Each call can
 * be repeated, and returns once the state is reached.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type ProcessIdentity, signalProcess, stateOf } from "@torpor/service/processes";
import { findVmCgroup, isFrozen, setFrozen } from "../host/isolation/cgroups.ts";
import type { Frozen } from "./files.ts";

const SIGNAL_LIMIT_MS = 5_000;

export async function freeze(vmm: ProcessIdentity): Promise<Frozen["by"]> {
  const cgroup = await findVmCgroup(vmm.pid);
  if (cgroup === undefined) {
    signalProcess(vmm, "SIGSTOP");
    await untilState(vmm, true);
    return "signal";
  }
  await setFrozen(cgroup, true);
  return "cgroup";
}

export async function thaw(vmm: ProcessIdentity, by: Frozen["by"]): Promise<void> {
  const cgroup = by === "cgroup" ? await findVmCgroup(vmm.pid) : undefined;
  if (cgroup !== undefined) return await setFrozen(cgroup, false);
  signalProcess(vmm, "SIGCONT");
  await untilState(vmm, false);
}

export async function stands(vmm: ProcessIdentity, by: Frozen["by"]): Promise<boolean> {
  const cgroup = by === "cgroup" ? await findVmCgroup(vmm.pid) : undefined;
  return cgroup === undefined ? stateOf(vmm) === "T" : await isFrozen(cgroup);
}

/** Polls the state. A process that ends meanwhile counts as stopped, and as continued. */
async function untilState(vmm: ProcessIdentity, isStopped: boolean): Promise<void> {
  const deadline = performance.now() + SIGNAL_LIMIT_MS;
  for (;;) {
    const state = stateOf(vmm);
    if (state === undefined || (state === "T") === isStopped) return;
    if (performance.now() > deadline)
      throw new Error(
        `process ${vmm.pid} did not ${isStopped ? "stop" : "go on"} within ${SIGNAL_LIMIT_MS} ms`,
      );
    await sleep(2);
  }
}
