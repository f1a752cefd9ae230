/**
 * Adopts what an earlier process of the agent left: continues the journalled operations
 * (command-runner.ts, SV2), and finds the running VMs.
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
  // The ends of old warm VMs are not awaited, because the host's lease would wait too. Until they
  // have ended, `collect` keeps what they use.
  const ending = await warm.open();
  await deps.isolation.collect([...(await liveVms(deps)), ...ending]);
  for (const sandboxId of await deps.store.list()) {
    const record = await deps.store.read(sandboxId);
    if (record === undefined) continue;
    const journal = await openJournal(deps, record);
    if (journal === undefined && (isGone(record) || record.revision === 0)) {
      // A crash came after the end of the sandbox, or before its first command was journalled. The
      // sandbox may have a VM that was kept warm.
      await deps.driver.end(deps.store.vmOf(record), { graceMs: 0 });
      await deps.store.dropDirectory(record);
      continue;
    }
    const entry = sandboxes.add(record);
    if (journal !== undefined) {
      const { kind, operationId } = journal.command;
      deps.log.info({ sandboxId, kind, operationId }, "journalled operation continued");
      begin(host, entry, journal);
      if (await deps.store.wasCancelled(sandboxId, operationId)) entry.abort?.abort();
      void sandboxes.inTurn(entry, async () => {
        await run(host, entry, journal);
        await replication.adopt(entry.record);
      });
    } else {
      void sandboxes.inTurn(entry, () => look(host, entry));
      await replication.adopt(entry.record);
    }
  }
}

/** VMs with a live VMM, whatever their record contains: `collect` keeps what they use. */
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
 * Operation that an earlier process did not complete. An operation whose result is in the record is
 * complete.
 */
async function openJournal(deps: LifecycleDeps, record: VmRecord): Promise<Journal | undefined> {
  const { sandboxId } = record.spec;
  const journal = await deps.store.readJournal(sandboxId);
  if (journal === undefined || record.operation?.id !== journal.command.operationId) return journal;
  await dropUsedSnapshots(deps, record);
  await deps.store.clearJournal(sandboxId, journal.command.operationId);
  return undefined;
}
