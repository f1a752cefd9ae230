/**
 * Takes over what an earlier process left: goes on with the operations that it had journalled
 * (command-runner.ts, SV2), finds running VMs again.
 */
import type { Vm } from "../drivers/driver.ts";
import { begin, dropUsedSnapshots, run } from "./command-runner.ts";
import type { LifecycleDeps } from "./context.ts";
import { isGone, type Journal, type VmRecord } from "./record.ts";
import type { Host } from "./sandboxes.ts";
import { look } from "./watch.ts";

export async function adopt(host: Host): Promise<void> {
  const { deps, sandboxes, replication, warm } = host;
  await deps.store.prepare();
  // Not waited for, as the lease of the host would be: until they have ended, what they use is
  // theirs.
  const ending = await warm.open();
  await deps.isolation.collect([...(await liveVms(deps)), ...ending]);
  for (const sandboxId of await deps.store.list()) {
    const record = await deps.store.read(sandboxId);
    if (record === undefined) continue;
    const journal = await openJournal(deps, record);
    if (journal === undefined && (isGone(record) || record.revision === 0)) {
      // Its end was cut off, or its beginning: nothing of it is accepted. It may have a VM that was
      // kept warm.
      await deps.driver.end(deps.store.vmOf(record), { graceMs: 0 });
      await deps.store.dropDirectory(record);
      continue;
    }
    const entry = sandboxes.add(record);
    if (journal !== undefined) {
      const { kind, operationId } = journal.command;
      deps.log.info({ sandboxId, kind, operationId }, "an operation is taken up again");
      begin(host, entry, journal);
      if (await deps.store.wasCancelled(sandboxId, operationId)) entry.abort?.abort();
      void sandboxes.inTurn(entry, async () => {
        await run(host, entry, journal);
        await replication.adopt(record);
      });
    } else {
      void sandboxes.inTurn(entry, () => look(host, entry));
      await replication.adopt(record);
    }
  }
}

/** Those whose VMM runs, whatever their record says: what they use on the host stays theirs. */
async function liveVms({ store, driver }: LifecycleDeps): Promise<Vm[]> {
  const live: Vm[] = [];
  for (const sandboxId of await store.list()) {
    const record = await store.read(sandboxId);
    if (record === undefined) continue;
    const vm = store.vmOf(record);
    if (await driver.isAlive(vm)) live.push(vm);
  }
  return live;
}

/**
 * The operation that an earlier process had not ended. One whose result is in the record already
 * has ended.
 */
async function openJournal(deps: LifecycleDeps, record: VmRecord): Promise<Journal | undefined> {
  const { sandboxId } = record.spec;
  const journal = await deps.store.readJournal(sandboxId);
  if (journal === undefined || record.operation?.id !== journal.command.operationId) return journal;
  await dropUsedSnapshots(deps, record);
  await deps.store.clearJournal(sandboxId, journal.command.operationId);
  return undefined;
}
