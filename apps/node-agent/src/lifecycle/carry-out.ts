/** A journalled command is carried out, and what came of it becomes the sandbox's record. */
import type { VmCommand } from "@torpor/contracts";
import { backoffMs, sleep } from "@torpor/service";
import type { VmmStatus } from "../drivers/driver.ts";
import { fetchSandbox, isLocal } from "./fetch-sandbox.ts";
import { type LifecycleDeps, messageOf, type Outcome, type Step, takesMemory } from "./context.ts";
import { create } from "./create.ts";
import { stillFrozen } from "./frozen.ts";
import { launch } from "./launch.ts";
import { pause } from "./pause.ts";
import { takeBack } from "./quarantine.ts";
import type { Journal, VmRecord } from "./record.ts";
import { resume } from "./resume.ts";
import type { Entry, Host } from "./sandboxes.ts";
import { removeSnapshots } from "./snapshot.ts";
import { remove, start, stop } from "./stop.ts";
import { CLOSING } from "./keyed-queue.ts";

const SETTLE_RETRY = { baseMs: 500, maxMs: 30_000 };

const OPERATIONS: Partial<Record<VmCommand["kind"], (step: Step) => Promise<Outcome>>> = {
  create,
  pause,
  resume,
  stop,
  start,
  delete: remove,
  discard: remove,
};

/**
 * From here on it is what this host does for the sandbox, and what it says it is busy with. Returns
 * what carries it out, in the sandbox's turn.
 */
export function takeUp(host: Host, entry: Entry, journal: Journal): () => Promise<void> {
  const { record } = entry;
  const { command } = journal;
  raiseOrder(record, command);
  // What the control plane discards it may not know.
  if (command.kind !== "discard") record.spec = command.spec;
  entry.journal = journal;
  delete entry.isBeginning;
  entry.abort = new AbortController();
  const { signal } = entry.abort;
  if (host.sandboxes.isCalledOff(command)) entry.abort.abort();
  return () => carryOut(host, entry, journal, signal);
}

/** SV1 */
function raiseOrder(record: VmRecord, command: VmCommand): void {
  record.epoch = Math.max(record.epoch, command.epoch);
  record.opSeq = Math.max(record.opSeq, command.opSeq);
}

async function carryOut(
  host: Host,
  entry: Entry,
  journal: Journal,
  signal: AbortSignal,
): Promise<void> {
  const { deps, replication } = host;
  const { record } = entry;
  const { kind } = journal.command;
  // A copy of a stopped sandbox's disk is for nothing once it has been started again.
  const entirely = kind === "delete" || kind === "discard" || journal.from === "stopped";
  await replication.stop(record.spec.sandboxId, { entirely });
  const onFetch: Step["onFetch"] = (progress) => (entry.fetching = progress);
  const isWarm = kind === "create" && host.warm.uses(record.spec.sandboxId);
  const step: Step = {
    deps,
    record,
    journal,
    vm: deps.store.vmOf(record),
    isWarm,
    signal,
    onFetch,
    timings: {},
  };
  const outcome = await perform(host, step);
  if (outcome === CLOSING) return;
  if (await settled(host, entry, journal, outcome, step.timings)) replication.start(record);
}

/**
 * It has happened: where its result cannot be written (a full disk) that is tried again. False:
 * this process ended first, and the next one carries out what is journalled.
 */
async function settled(
  host: Host,
  entry: Entry,
  journal: Journal,
  outcome: Outcome,
  timings: Record<string, number>,
): Promise<boolean> {
  const { operationId, kind } = journal.command;
  for (let attempt = 1; ; attempt += 1) {
    try {
      await settle(host, entry, journal, outcome, timings);
      return true;
    } catch (err) {
      host.deps.log.error(
        { err, operationId, kind, attempt },
        "the result of an operation cannot be written",
      );
      if (!(await sleep(backoffMs(attempt, SETTLE_RETRY), host.sandboxes.queue.signal)))
        return false;
    }
  }
}

async function perform({ slots, warm }: Host, step: Step): Promise<Outcome | typeof CLOSING> {
  const { deps, record, journal } = step;
  const { command, from } = journal;
  try {
    if (record.quarantined === true) await takeBack(deps, record, journal);
    const operation = OPERATIONS[command.kind];
    const frozen = await stillFrozen(step);
    if (frozen !== undefined) return frozen;
    if (operation === undefined)
      return {
        state: from,
        failed: {
          code: "UNKNOWN_COMMAND",
          message: `This host does not know the command ${command.kind}: its node-agent is older than the control plane. Upgrade it.`,
        },
      };
    const notBrought = isLocal(step) ? undefined : await fetchSandbox(step);
    if (notBrought === undefined && takesMemory(journal)) await warm.giveWay();
    return notBrought ?? (await launch(step, slots, operation));
  } catch (error) {
    deps.log.error(
      { err: error, sandboxId: step.vm.sandboxId, kind: command.kind },
      "the operation failed unexpectedly",
    );
    return {
      state: await stateNow(step),
      failed: {
        code: "HOST_ERROR",
        message: `The host failed to ${command.kind} the sandbox: ${messageOf(error)}`,
      },
    };
  }
}

/** What is true of a sandbox whose operation broke off. */
async function stateNow({ deps, vm, journal }: Step): Promise<Outcome["state"]> {
  const status: VmmStatus = await deps.driver.inspect(vm).catch(() => ({ kind: "none" }) as const);
  if (status.kind === "running" || status.kind === "unknown") return "running";
  if (status.kind === "paused" && journal.from === "running") {
    // Else the next look at it does (watch.ts).
    await deps.driver
      .resumeVcpus(vm)
      .catch((err: unknown) =>
        deps.log.warn({ err, sandboxId: vm.sandboxId }, "a VM stands still"),
      );
    return "running";
  }
  return journal.from === "running" ? "stopped" : journal.from;
}

/** Its result is durable before the journal goes, and before it is said. */
export async function settle(
  { deps, sandboxes }: Host,
  entry: Entry,
  { command, from }: Journal,
  outcome: Outcome,
  timings: Record<string, number>,
): Promise<void> {
  const { record } = entry;
  const { sandboxId } = record.spec;
  raiseOrder(record, command);
  record.state = outcome.state;
  record.generation = outcome.generation ?? record.generation;
  record.timingsMs = timings;
  record.operation = {
    id: command.operationId,
    outcome:
      outcome.failed === undefined
        ? "succeeded"
        : outcome.cancelled === true
          ? "cancelled"
          : "failed",
    ...(outcome.failed === undefined ? {} : { error: outcome.failed }),
  };
  setOptional(record, outcome, from);
  // Known before the copy begins, which is by itself.
  const { kind, maxBytesPerSecond } = command;
  if (kind === "pause" && record.state === "paused" && maxBytesPerSecond !== undefined)
    record.replication = { maxBytesPerSecond };
  const isElsewhere = outcome.isUntouched === true && record.snapshot === undefined;
  if (record.state === "stopped" && !isElsewhere) await sandboxes.nameDisk(record);
  await sandboxes.persist(record);
  if (outcome.state === "failed") await deps.store.dropDirectory(record);
  await dropUsedSnapshots(deps, record);
  await deps.store.clearJournal(sandboxId, command.operationId);
  delete entry.journal;
  delete entry.abort;
  delete entry.fetching;
  // A new run, or a pause that came to nothing: idleness counts from here (S23).
  if (outcome.state === "running") deps.activity.touch(sandboxId);
  await sandboxes.reportEntry(entry);
  if (outcome.state === "deleted" || outcome.state === "failed") sandboxes.drop(sandboxId);
}

/**
 * Once the operation's result is durable: until then, what a resume has used says how far it came.
 */
export async function dropUsedSnapshots(
  { store }: LifecycleDeps,
  { spec, state, generation }: VmRecord,
): Promise<void> {
  if (state === "running") await removeSnapshots(store.dirOf(spec.sandboxId));
  if (state === "paused") await removeSnapshots(store.dirOf(spec.sandboxId), generation);
}

function setOptional(record: VmRecord, outcome: Outcome, from: Journal["from"]): void {
  if (outcome.cause === undefined) delete record.cause;
  else record.cause = outcome.cause;
  if (outcome.state !== "running") delete record.condition;
  if (outcome.state !== from) {
    delete record.replication;
    delete record.replicationFailed;
  }
  const isUntouched = outcome.state === "paused" || outcome.isUntouched === true;
  if (outcome.snapshot !== undefined) record.snapshot = outcome.snapshot;
  else if (!isUntouched) delete record.snapshot;
}
