/**
 * Watches the VMMs, and reports one that dies, does not answer, or has paused vCPUs without a
 * command.
 */
import { sleep } from "@torpor/service";
import type { Vm, VmmStatus } from "../drivers/driver.ts";
import type { LifecycleDeps } from "./context.ts";
import { endedByItself, isQuarantined, type VmRecord, withCondition } from "./record.ts";
import type { Entry, Host } from "./sandboxes.ts";

const WATCH_EVERY_MS = 1_000;
/** Unanswered inspections before a VMM counts as unhealthy: one may be due to a busy machine. */
const SILENT_LOOKS = 2;
const TRIM_EVERY_ROUNDS = 30;
const TIDY_EVERY_ROUNDS = 3_600;

/** Watches running VMs until the signal aborts. */
export async function watch(host: Host, signal: AbortSignal): Promise<void> {
  const { store, log } = host.deps;
  const looks = new Set<Promise<void>>();
  for (let round = 0; await sleep(WATCH_EVERY_MS, signal); round += 1) {
    if (round % TIDY_EVERY_ROUNDS === 0)
      await store
        .dropOldIncoming()
        .catch((err: unknown) => log.warn({ err }, "old transfers could not be removed"));
    for (const entry of host.sandboxes.all()) {
      // The inspection of a VMM that hangs takes long: the others do not wait for it.
      if (
        entry.isWatched === true ||
        entry.journal !== undefined ||
        entry.record.state !== "running"
      )
        continue;
      entry.isWatched = true;
      const watched = watchOne(host, entry, round)
        .catch((err: unknown) =>
          log.warn({ err, sandboxId: entry.record.spec.sandboxId }, "VMM could not be inspected"),
        )
        .finally(() => {
          delete entry.isWatched;
          looks.delete(watched);
        });
      looks.add(watched);
    }
  }
  await Promise.allSettled(looks);
}

async function watchOne(host: Host, entry: Entry, round: number): Promise<void> {
  const { driver, store, fence } = host.deps;
  const vm = store.vmOf(entry.record);
  if (await fence.isFrozen(vm.sandboxId)) return;
  const { kind } = await driver.inspect(vm);
  entry.failedProbes = kind === "unknown" ? (entry.failedProbes ?? 0) + 1 : 0;
  const isNews =
    kind === "unknown"
      ? entry.failedProbes === SILENT_LOOKS
      : entry.record.state === "running" && entry.record.condition !== undefined;
  const isHeld = isQuarantined(entry.record);
  if (isNews || kind === "none" || kind === (isHeld ? "running" : "paused"))
    await host.sandboxes.inTurn(entry, () => look(host, entry));
  if (kind === "running" && round % TRIM_EVERY_ROUNDS === 0) await driver.trimLogs(vm);
}

/**
 * Inspects a VM without an operation: corrects its vCPUs, records what has changed, and reports.
 * Called in the sandbox's turn.
 */
export async function look(host: Host, entry: Entry): Promise<void> {
  const { deps, sandboxes } = host;
  const { record } = entry;
  if (entry.journal !== undefined || (record.state !== "running" && record.state !== "failed"))
    return;
  const vm = deps.store.vmOf(record);
  // A frozen VM does not answer, which proves nothing about its health.
  if (await deps.fence.isFrozen(vm.sandboxId)) {
    sandboxes.reportAgain(entry);
    return;
  }
  const status = await deps.driver.inspect(vm);
  if (status.kind === "running" && isQuarantined(record)) await deps.driver.pauseVcpus(vm);
  if (status.kind === "paused" && !isQuarantined(record)) await resumePausedVcpus(deps, vm, record);
  if (record.state === "running") await noteCondition(host, entry, status);
  if (status.kind === "none" && record.state === "running") await noteEnd(host, entry, vm);
  await sandboxes.reportEntry(entry);
}

/** Records that the VMM ended without a command. */
async function noteEnd({ deps, sandboxes }: Host, entry: Entry, vm: Vm): Promise<void> {
  const { code, message } = await deps.driver.causeOfEnd(vm);
  const cause = { code, message: `${message} The file system is kept: start the sandbox.` };
  await sandboxes.persist(entry, await sandboxes.nameDisk(endedByItself(entry.record, cause)));
  deps.log.warn({ sandboxId: vm.sandboxId, code, reason: message }, "VMM ended by itself");
  // Also removes what the VMM used on the host.
  await deps.driver
    .end(vm, { graceMs: 0 })
    .catch((err: unknown) =>
      deps.log.warn(
        { err, sandboxId: vm.sandboxId },
        "leftovers of an ended VMM could not be removed",
      ),
    );
}

/**
 * Resumes the vCPUs after a pause that was given up while its VMM did not answer. The users'
 * processes may be suspended; a guest where they are not accepts the call as well.
 */
export async function resumePausedVcpus(
  { driver, guest, log }: LifecycleDeps,
  vm: Vm,
  record: VmRecord,
): Promise<void> {
  log.warn({ sandboxId: vm.sandboxId }, "vCPUs were paused without a command; resumed");
  await driver.resumeVcpus(vm);
  await guest
    .thaw(vm, record.agentKey)
    .catch((err: unknown) =>
      log.warn({ err, sandboxId: vm.sandboxId }, "guest could not be released from its quiescence"),
    );
}

/**
 * Records that a VMM does not answer, or answers again. Such a VMM is kept, because its memory is
 * the user's; its condition is reported until the VMM answers or ends.
 */
async function noteCondition(
  { deps, sandboxes }: Host,
  entry: Entry,
  status: VmmStatus,
): Promise<void> {
  const { record, failedProbes: silentLooks = 0 } = entry;
  if (record.state !== "running") return;
  const { sandboxId } = record.spec;
  if (status.kind === "unknown") {
    if (silentLooks < SILENT_LOOKS || record.condition !== undefined) return;
    const condition = {
      code: "vmm_unresponsive",
      message: `The VMM lives (pid ${status.pid}) but does not answer: ${status.reason}. Its memory is kept: wait, or stop or delete the sandbox.`,
    } as const;
    await sandboxes.persist(entry, withCondition(record, condition));
    deps.log.warn({ sandboxId, pid: status.pid, reason: status.reason }, "VMM did not answer");
  } else {
    if (record.condition === undefined) return;
    await sandboxes.persist(entry, withCondition(record, undefined));
    deps.log.info({ sandboxId, status: status.kind }, "VMM answered again, or ended");
  }
}
