/**
 * Runs the commands of one host, one at a time per sandbox: submit → run → complete.
 *
 * SV1  (epoch, opSeq) of commands only rises per sandbox; lower is stale, equal is a repeat and
 *      reports again.
 * SV2  A command is acknowledged once op.json is durable; from then on it is run, whatever happens
 *      to this process. Before that the command is neither on disk nor in memory: a half-known
 *      command would look complete, with the state before it as its result.
 * SV4  A command is compared with the record when the commands before it are complete: one of them
 *      may have removed the record.
 * SV5  Once a cancel is acknowledged, neither this process nor the next one launches the cancelled
 *      command, wherever the command is by then.
 */
import type { VmCommand } from "@torpor/contracts";
import { messageOf } from "@torpor/service";
import type { VmmStatus } from "../drivers/driver.ts";
import { findImage } from "../images/images.ts";
import { create, newSecrets } from "../operations/create.ts";
import { remove } from "../operations/delete.ts";
import { pause } from "../operations/pause.ts";
import { resume } from "../operations/resume.ts";
import { start } from "../operations/start.ts";
import { stop } from "../operations/stop.ts";
import { takesMemory } from "./commit.ts";
import type { LifecycleDeps, Step, Submitted } from "./context.ts";
import type { Outcome } from "./outcome.ts";
import { fetchSandbox, isLocal } from "./fetch-sandbox.ts";
import { stillFrozen } from "./frozen.ts";
import { CLOSING } from "./keyed-queue.ts";
import { launch } from "./launch.ts";
import { endQuarantine, setQuarantined } from "./quarantine.ts";
import {
  accepted,
  isQuarantined,
  type Journal,
  next,
  released,
  snapshotOf,
  type VmRecord,
} from "./record.ts";
import { replicate } from "./replicate.ts";
import type { Entry, Host } from "./sandboxes.ts";
import { removeSnapshots } from "./snapshot.ts";

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
 * Submits a command behind the earlier commands of its sandbox. Resolves once the command is
 * journalled (SV2), or is not to be; it is then run and completed without the caller.
 */
export async function submit(host: Host, command: VmCommand): Promise<Submitted> {
  const { sandboxes } = host;
  const { kind, spec } = command;
  if (kind === "cancel") return await cancel(host, command);
  if (kind === "quarantine" || kind === "unquarantine") return await setQuarantined(host, command);
  if (kind === "replicate") return await replicate(host, command);
  const known = sandboxes.find(spec.sandboxId);
  // A delete does not wait for an operation that can still back out. Neither does a discard of a
  // copy that another host has continued from.
  if (kind === "delete") sandboxes.willBeDeleted(spec.sandboxId);
  if (kind === "discard" && known !== undefined && command.epoch > known.record.epoch)
    known.abort?.abort();
  const submitted = Promise.withResolvers<Submitted>();
  const end = sandboxes.queue.run(spec.sandboxId, async () => {
    if (kind === "delete") sandboxes.isDeleted(spec.sandboxId);
    const { result, entry } = await journalInTurn(host, command);
    submitted.resolve(result);
    // While the queue closes, the next process runs what is journalled.
    if (entry?.journal !== undefined && !sandboxes.queue.signal.aborted)
      await run(host, entry, entry.journal);
  });
  end.then((ended) => ended === CLOSING && submitted.resolve(CLOSING), submitted.reject);
  return await submitted.promise;
}

async function cancel({ deps, sandboxes }: Host, command: VmCommand): Promise<Submitted> {
  const { cancels, spec } = command;
  if (cancels === undefined) return "ignored";
  const entry = sandboxes.find(spec.sandboxId);
  if (entry?.journal?.command.operationId === cancels) {
    entry.abort?.abort();
  } else {
    const hasEnded = entry !== undefined && orderOf(command, entry.record) <= 0;
    if (hasEnded) return "ignored";
    // The command waits behind another one of the sandbox, is being journalled, or was lost on its
    // way and comes again.
    sandboxes.callOff(cancels);
  }
  await deps.store.noteCancelled(spec.sandboxId, cancels);
  return "journalled";
}

/** Order of a command against the newest one in the record; positive: the command is newer. */
function orderOf(command: VmCommand, record: VmRecord): number {
  return command.epoch - record.epoch || command.opSeq - record.opSeq;
}

/** Journals a command in its sandbox's turn. With `entry`, the command is to be run. */
async function journalInTurn(
  host: Host,
  command: VmCommand,
): Promise<{ result: Submitted; entry?: Entry }> {
  const { deps, sandboxes, warm } = host;
  const entry = await entryFor(host, command);
  if (entry === undefined) return { result: "ignored" };
  const { record } = entry;
  const order = orderOf(command, record);
  if (command.kind === "discard" ? isInUse(command, record) : order < 0) return { result: "stale" };
  if (command.kind !== "discard" && order === 0) {
    sandboxes.reportAgain(entry);
    return { result: "repeated" };
  }
  if (record.revision === 0 && command.kind === "delete") {
    await complete(host, entry, { command, from: "deleted" }, { state: "deleted" }, {});
    return { result: "journalled" };
  }
  const journal: Journal = { command, from: record.state };
  entry.isBeginning = command.kind === "create";
  try {
    if (command.kind === "create" && !sandboxes.isCalledOff(command)) await warm.take(entry);
    await deps.store.makeRoom(entry.record);
    if (sandboxes.isCalledOff(command))
      await deps.store.noteCancelled(command.spec.sandboxId, command.operationId);
    await deps.store.writeJournal(command.spec.sandboxId, journal);
  } catch (error) {
    await warm.undo(entry);
    delete entry.isBeginning;
    throw error;
  }
  begin(host, entry, journal);
  return { result: "journalled", entry };
}

/** True if this host runs the copy, or has a newer run: the copy is then not discarded. */
function isInUse(command: VmCommand, record: VmRecord): boolean {
  return (
    record.epoch > command.epoch || (record.state === "running" && record.epoch === command.epoch)
  );
}

async function entryFor({ deps, sandboxes }: Host, command: VmCommand): Promise<Entry | undefined> {
  const { sandboxId } = command.spec;
  const known = sandboxes.find(sandboxId);
  if (known !== undefined) return known;
  const gone = await deps.store.read(sandboxId);
  const mayMake =
    command.kind === "create" || command.kind === "delete" || command.snapshot !== undefined;
  if (gone === undefined && !mayMake) {
    deps.log.warn(
      { sandboxId, kind: command.kind },
      "command named a sandbox that is not on this host",
    );
    return command.kind === "discard" ? undefined : sandboxes.add(await blankRecord(deps, command));
  }
  return sandboxes.add(gone ?? (await blankRecord(deps, command)));
}

/**
 * The record of a sandbox that this host has never held. Nothing of the sandbox is on disk until a
 * command is journalled.
 */
async function blankRecord({ imagesDir }: LifecycleDeps, command: VmCommand): Promise<VmRecord> {
  const image = await findImage(imagesDir, command.spec.imageSha256);
  const order = { epoch: 0, opSeq: 0, revision: 0, generation: 0 };
  return {
    spec: command.spec,
    kernelCmdline: image?.kernelCmdline ?? "",
    ...order,
    state: "failed",
    observedAt: new Date().toISOString(),
    ...newSecrets(),
  };
}

/** Makes the journalled command the operation that this host runs for the sandbox. */
export function begin(host: Host, entry: Entry, journal: Journal): void {
  const { command } = journal;
  entry.record = accepted(entry.record, command);
  entry.journal = journal;
  delete entry.isBeginning;
  entry.abort = new AbortController();
  if (host.sandboxes.isCalledOff(command)) entry.abort.abort();
}

/** Runs a command that has begun, in its sandbox's turn, and completes it. */
export async function run(host: Host, entry: Entry, journal: Journal): Promise<void> {
  const { deps, replication } = host;
  const { abort = new AbortController() } = entry;
  const { kind, spec } = journal.command;
  // A copy of a stopped sandbox's disk is of no use once the sandbox has been started again.
  const entirely = kind === "delete" || kind === "discard" || journal.from === "stopped";
  await replication.stop(spec.sandboxId, { entirely });
  const step: Step = {
    deps,
    get record() {
      return entry.record;
    },
    keep: async (record) => {
      entry.record = record;
      await deps.store.write(record);
    },
    journal,
    vm: deps.store.vmOf(entry.record),
    isWarm: kind === "create" && host.warm.uses(spec.sandboxId),
    signal: abort.signal,
    onFetch: (progress) => (entry.fetching = progress),
    timings: {},
  };
  const outcome = await operate(host, entry, step);
  if (outcome === CLOSING) return;
  if (await completeInTheEnd(host, entry, journal, outcome, step.timings))
    replication.start(entry.record);
}

/** Runs the preconditions, the fetch and the operation itself. */
async function operate(
  { slots, warm }: Host,
  entry: Entry,
  step: Step,
): Promise<Outcome | typeof CLOSING> {
  const { deps, journal } = step;
  const { command, from } = journal;
  try {
    if (isQuarantined(entry.record)) {
      entry.record = released(entry.record);
      await endQuarantine(deps, entry.record, journal);
    }
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
    const notFetched = isLocal(step) ? undefined : await fetchSandbox(step);
    if (notFetched === undefined && takesMemory(journal)) await warm.giveWay();
    return notFetched ?? (await launch(step, slots, operation));
  } catch (error) {
    deps.log.error(
      { err: error, sandboxId: step.vm.sandboxId, kind: command.kind },
      "operation failed unexpectedly",
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

/** The state of a sandbox whose operation broke off, as its VMM shows it. */
async function stateNow({ deps, vm, journal }: Step): Promise<Outcome["state"]> {
  const status: VmmStatus = await deps.driver.inspect(vm).catch(() => ({ kind: "none" }) as const);
  if (status.kind === "running" || status.kind === "unknown") return "running";
  if (status.kind === "paused" && journal.from === "running") {
    // If this fails, the next inspection resumes the vCPUs (watch.ts).
    await deps.driver
      .resumeVcpus(vm)
      .catch((err: unknown) =>
        deps.log.warn({ err, sandboxId: vm.sandboxId }, "vCPUs stayed paused"),
      );
    return "running";
  }
  return journal.from === "running" ? "stopped" : journal.from;
}

/**
 * The operation has happened, so completing it is retried while its result cannot be written (a
 * full disk). False: this process ended first, and the next one runs what is journalled.
 */
async function completeInTheEnd(
  host: Host,
  entry: Entry,
  journal: Journal,
  outcome: Outcome,
  timings: Record<string, number>,
): Promise<boolean> {
  const { operationId, kind } = journal.command;
  return await host.sandboxes.untilWritten({ operationId, kind }, Infinity, () =>
    complete(host, entry, journal, outcome, timings),
  );
}

/** The result is durable before the journal is removed, and before it is reported. */
async function complete(
  { deps, sandboxes }: Host,
  entry: Entry,
  journal: Journal,
  outcome: Outcome,
  timings: Record<string, number>,
): Promise<void> {
  const { sandboxId } = entry.record.spec;
  const record = next(entry.record, journal, outcome, timings);
  const isElsewhere = outcome.isUntouched === true && snapshotOf(record) === undefined;
  await sandboxes.persist(entry, isElsewhere ? record : await sandboxes.nameDisk(record));
  if (outcome.state === "failed") await deps.store.dropDirectory(entry.record);
  await dropUsedSnapshots(deps, entry.record);
  await deps.store.clearJournal(sandboxId, journal.command.operationId);
  delete entry.journal;
  delete entry.abort;
  delete entry.fetching;
  // A new run, or a pause that was given up: idleness counts from here (S23).
  if (outcome.state === "running") deps.activity.touch(sandboxId);
  await sandboxes.reportEntry(entry);
  if (outcome.state === "deleted" || outcome.state === "failed") sandboxes.drop(sandboxId);
}

/**
 * Removes used snapshots. Called once the operation's result is durable: until then, the used
 * snapshot of a resume shows how far the resume came.
 */
export async function dropUsedSnapshots(
  { store }: LifecycleDeps,
  { spec, state, generation }: VmRecord,
): Promise<void> {
  if (state === "running") await removeSnapshots(store.dirOf(spec.sandboxId));
  if (state === "paused") await removeSnapshots(store.dirOf(spec.sandboxId), generation);
}
