/**
 * Takes commands.
 *
 * SV1  (epoch, opSeq) of commands only rises per sandbox; lower is stale, equal is a repeat and
 *      reports again.
 * SV2  A command is acknowledged once op.json is durable; from then on it is carried out, whatever
 *      happens to this process. Before that nothing on disk or in memory knows of it: half-known,
 *      it would be taken for one whose result is the state before it.
 * SV4  A command is looked at when those before it have been carried out: one of them may have
 *      ended what this host knew of the sandbox.
 * SV5  Once a cancel is acknowledged nothing launches what it cancels: neither this process,
 *      wherever the command is by then, nor the next one.
 */
import type { VmCommand } from "@torpor/contracts";
import { findImage } from "../images.ts";
import { settle, takeUp } from "./carry-out.ts";
import type { LifecycleDeps } from "./context.ts";
import { newSecrets } from "./create.ts";
import { setQuarantined } from "./quarantine.ts";
import type { Journal, VmRecord } from "./record.ts";
import { replicate } from "./replicate.ts";
import type { Entry, Host } from "./sandboxes.ts";
import { CLOSING } from "./keyed-queue.ts";

/**
 * `journalled`: it will be carried out. `stale`: a newer command is known. `repeated`: its result
 * was reported again. `ignored`: nothing to do with it here. `closing`: this process ends, and
 * knows nothing of it: it has to come again.
 */
export type Accepted = "journalled" | "stale" | "repeated" | "ignored" | typeof CLOSING;

/** Resolves once the command is journalled (SV2), or is not to be. */
export async function accept(host: Host, command: VmCommand): Promise<Accepted> {
  const { sandboxes } = host;
  const { kind, spec } = command;
  if (kind === "cancel") return await cancel(host, command);
  if (kind === "quarantine" || kind === "unquarantine") return await setQuarantined(host, command);
  if (kind === "replicate") return await replicate(host, command);
  const known = sandboxes.find(spec.sandboxId);
  // A delete does not wait for what can still back out, and neither does the end of a copy that
  // another host has gone on from.
  if (kind === "delete") sandboxes.willBeDeleted(spec.sandboxId);
  if (kind === "discard" && known !== undefined && command.epoch > known.record.epoch)
    known.abort?.abort();
  const accepted = Promise.withResolvers<Accepted>();
  const turn = sandboxes.queue.run(spec.sandboxId, async () => {
    if (kind === "delete") sandboxes.isDeleted(spec.sandboxId);
    const taken = await take(host, command);
    if (typeof taken === "string") return accepted.resolve(taken);
    accepted.resolve("journalled");
    // Else the next process goes on with it.
    if (!sandboxes.queue.signal.aborted) await taken();
  });
  turn.then((ended) => ended === CLOSING && accepted.resolve(CLOSING), accepted.reject);
  return await accepted.promise;
}

async function cancel({ deps, sandboxes }: Host, command: VmCommand): Promise<Accepted> {
  const { cancels, spec } = command;
  if (cancels === undefined) return "ignored";
  const entry = sandboxes.find(spec.sandboxId);
  if (entry?.journal?.command.operationId === cancels) {
    entry.abort?.abort();
  } else {
    const hasEnded = entry !== undefined && orderOf(command, entry.record) <= 0;
    if (hasEnded) return "ignored";
    // It waits behind another one of the sandbox, is being journalled, or was lost on its way and
    // comes again.
    sandboxes.callOff(cancels);
  }
  await deps.store.noteCancelled(spec.sandboxId, cancels);
  return "journalled";
}

/** Positive: the command is newer than all that is known of the sandbox. */
function orderOf(command: VmCommand, record: VmRecord): number {
  return command.epoch - record.epoch || command.opSeq - record.opSeq;
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
      "a command names a sandbox that is not on this host",
    );
    return command.kind === "discard" ? undefined : sandboxes.add(await blankRecord(deps, command));
  }
  return sandboxes.add(gone ?? (await blankRecord(deps, command)));
}

/**
 * Of a sandbox that this host has never held. Nothing of it is on disk until a command is
 * journalled.
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

/** In its turn. What carries it out, once it is journalled. */
async function take(host: Host, command: VmCommand): Promise<Accepted | (() => Promise<void>)> {
  const { deps, sandboxes, warm } = host;
  const entry = await entryFor(host, command);
  if (entry === undefined) return "ignored";
  const { record } = entry;
  if (command.kind === "discard") {
    if (
      record.epoch > command.epoch ||
      (record.state === "running" && record.epoch === command.epoch)
    )
      return "stale";
  } else {
    const order = orderOf(command, record);
    if (order < 0) return "stale";
    if (order === 0) {
      sandboxes.reportAgain(entry);
      return "repeated";
    }
  }
  if (record.revision === 0 && command.kind === "delete") {
    await settle(host, entry, { command, from: "deleted" }, { state: "deleted" }, {});
    return "journalled";
  }
  const journal: Journal = { command, from: record.state };
  entry.isBeginning = command.kind === "create";
  try {
    if (command.kind === "create" && !sandboxes.isCalledOff(command)) await warm.take(record);
    await deps.store.makeRoom(record);
    if (sandboxes.isCalledOff(command))
      await deps.store.noteCancelled(command.spec.sandboxId, command.operationId);
    await deps.store.writeJournal(command.spec.sandboxId, journal);
  } catch (error) {
    await warm.undo(record);
    delete entry.isBeginning;
    throw error;
  }
  return takeUp(host, entry, journal);
}
