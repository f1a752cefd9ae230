/**
 * Removes what VMs left on this host, once the agent and its VMs have ended: `node collect.ts`,
 * with the agent's environment. The agent does the same when it starts; this program is for an
 * agent that will not start again. What running VMs use stays.
 */
import { configFrom } from "./config.ts";
import { endVmm, findLiveRun } from "./drivers/vmm-process.ts";
import type { Vm } from "./drivers/driver.ts";
import { chooseIsolation } from "./host/isolation/choose.ts";
import { messageOf } from "@torpor/service";
import { VmStore } from "./lifecycle/vm-store.ts";
import { dropWarm, leftWarm } from "./lifecycle/warm-vm.ts";

const config = { ...configFrom(process.env), VM_NETWORK_POOL: 0 };
const quiet = { info: () => {}, warn: () => {} };

const store = new VmStore(config.DATA_DIR);
await store.prepare();
// Warm VMs serve only a running agent.
const live: Vm[] = [];
for (const vm of await leftWarm(config.DATA_DIR)) {
  await dropWarm({ end: endVmm }, vm).catch((error: unknown) => {
    process.stderr.write(`${vm.sandboxId} stays: ${messageOf(error)}\n`);
    live.push(vm);
  });
}
for (const sandboxId of await store.list()) {
  const record = await store.read(sandboxId);
  if (record === undefined) continue;
  const vm = store.vmOf(record);
  if ((await findLiveRun(vm)) !== undefined) live.push(vm);
}
const { isolation, close, dismantle } = await chooseIsolation(config, quiet);
await isolation.collect(live);
await (live.length === 0 ? dismantle() : close());
