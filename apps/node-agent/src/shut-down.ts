/**
 * Shuts down the guests of this host, as a stop of their sandboxes does: after the agent has ended,
 * and before the remaining VMMs are ended. `torpor-node-agent shut-down`, with the agent's
 * environment.
 *
 * All guests are shut down at the same time, each within a limit. The program prints one line for
 * each sandbox whose guest did not reply, or did not end.
 */
import type { SandboxId } from "@torpor/contracts";
import { messageOf, waitUntilGone } from "@torpor/service";
import { configFrom } from "./config.ts";
import { findGuestAddress, findLiveRun } from "./drivers/vmm-process.ts";
import { httpGuest } from "./lifecycle/guest.ts";
import { VmStore } from "./lifecycle/vm-store.ts";

/** Same limit as for a stop (operations/stop.ts). */
const END_LIMIT_MS = 20_000;

const store = new VmStore(configFrom(process.env).DATA_DIR);
const guest = httpGuest({
  guestAddress: findGuestAddress,
  isAlive: async (vm) => (await findLiveRun(vm)) !== undefined,
});
await Promise.all((await store.list()).map(shutDown));

async function shutDown(sandboxId: SandboxId): Promise<void> {
  const record = await store.read(sandboxId);
  if (record === undefined) return;
  const vm = store.vmOf(record);
  const run = await findLiveRun(vm);
  if (run === undefined) return;
  try {
    await guest.shutdown(vm, record.agentKey);
    if (!(await waitUntilGone(run, END_LIMIT_MS)))
      throw new Error(`it has not ended within ${END_LIMIT_MS / 1000} s`);
  } catch (error) {
    const reason = messageOf(error);
    process.stdout.write(
      `${sandboxId} was not shut down, what it had not written to its disk is lost: ${reason}\n`,
    );
  }
}
