/** Finds out whether a real VM can run here, by starting one. */
import { existsSync } from "node:fs";
import { expectStatus, SNAPSHOT, Stage, type StageTarget } from "./stage.ts";

/** Returns the target, with the reason in `noVm` if no VM can run. */
export async function probe(target: StageTarget): Promise<StageTarget> {
  if (target.kernel === undefined || target.initrd === undefined)
    return { ...target, noVm: "no kernel and initrd to boot are given" };
  if (!existsSync("/dev/kvm")) return { ...target, noVm: "this machine has no /dev/kvm" };
  const stage = await Stage.open(target);
  try {
    const vmm = await stage.paused();
    expectStatus(await vmm.put("vm.snapshot", SNAPSHOT), 204);
    return target;
  } catch (error) {
    return {
      ...target,
      noVm: `no VM can be booted and snapshotted here: ${error instanceof Error ? error.message : String(error)}`,
    };
  } finally {
    await stage.close();
  }
}
