/**
 * All sandboxes of one host: takes commands in their order, carries out one at a time per sandbox, adopts what it finds after a restart, notices VMMs that die, and says what it saw.
 *
 * SV1  (epoch, opSeq) of commands only rises per sandbox; lower is stale, equal is a repeat and reports again.
 * SV2  A command is acknowledged once op.json is durable; from then on it is carried out, whatever happens to this process. Before that nothing on disk or in memory knows of it:
 *      half-known, it would be taken for one whose result is the state before it.
 * SV3  An observation is durable (vm.json) before it is reported, and stays in the inventory until the next one.
 */
import type { Cause, Observation, SnapshotFacts, VmCommand } from "@torpor/contracts";
import { pause as wait } from "@torpor/service";
import type { Vm, VmmStatus } from "../drivers/driver.ts";
import type { GuestAddress } from "../guest-connection.ts";
import { findImage } from "../images.ts";
import type { SnapshotCopy } from "../store/read-chunks.ts";
import { bring, isHere } from "./bring.ts";
import { type LifecycleDeps, messageOf, type Outcome, type Step } from "./context.ts";
import { copyableOf } from "./copies.ts";
import { create, newSecrets } from "./create.ts";
import { stillFrozen } from "./frozen.ts";
import { observationOf, type Observed } from "./observation.ts";
import { pause } from "./pause.ts";
import { isGone, type Journal, type VmRecord } from "./record.ts";
import { Replication } from "./replication.ts";
import { resume } from "./resume.ts";
import { removeSnapshots } from "./snapshot.ts";
import { remove, start, stop } from "./stop.ts";

/** `journalled`: it will be carried out. `stale`: a newer command is known. `repeated`: its result was reported again. `ignored`: nothing to do with it here. */
export type Accepted = "journalled" | "stale" | "repeated" | "ignored";

const WATCH_EVERY_MS = 1_000;
/** One answer that does not come in time may be a busy machine. */
const SILENT_LOOKS = 2;
const TRIM_EVERY_ROUNDS = 30;
const TIDY_EVERY_ROUNDS = 3_600;

interface Entry extends Observed {
  /** Ends the operation that is being carried out, if it can still back out. */
  abort?: AbortController;
  /** Looks in a row that the VMM has not answered. */
  silentLooks?: number;
  /** A look is under way. */
  isWatched?: boolean;
  /** The end of this sandbox's queue. */
  tail: Promise<unknown>;
}

const OPERATIONS: Partial<Record<VmCommand["kind"], (step: Step) => Promise<Outcome>>> = {
  create,
  pause,
  resume,
  stop,
  start,
  delete: remove,
  discard: remove,
};

export class Supervisor {
  private readonly deps: LifecycleDeps & { hostId: string };
  private readonly report: (seen: Observation) => void;
  private readonly entries = new Map<string, Entry>();
  private readonly replication: Replication;

  constructor(deps: LifecycleDeps & { hostId: string }, report: (seen: Observation) => void) {
    this.deps = deps;
    this.report = report;
    this.replication = new Replication(deps, {
      stored: (sandboxId, facts) => this.noteStored(sandboxId, facts),
      failed: (sandboxId, facts, cause) => this.noteNotStored(sandboxId, facts, cause),
    });
  }

  /** Takes over what an earlier process left: finishes journalled operations, finds running VMs again. */
  async adopt(): Promise<void> {
    await this.deps.store.prepare();
    await this.deps.isolation.collect(await this.liveVms());
    for (const sandboxId of await this.deps.store.list()) {
      const record = await this.deps.store.read(sandboxId);
      if (record === undefined) continue;
      const journal = await this.openJournal(record);
      if (journal === undefined && (isGone(record) || record.revision === 0)) {
        // Its end was cut off, or its beginning: nothing of it is accepted.
        await this.deps.store.dropDirectory(record);
        continue;
      }
      const entry: Entry = { record, tail: Promise.resolve() };
      this.entries.set(sandboxId, entry);
      if (journal !== undefined) {
        this.deps.log.info(
          { sandboxId, kind: journal.command.kind, operationId: journal.command.operationId },
          "an operation is taken up again",
        );
        this.takeUp(entry, journal);
      } else {
        void this.enqueue(entry, () => this.look(entry));
        await this.replication.adopt(record);
      }
    }
  }

  /** Those whose VMM runs, whatever their record says: what they use on the host stays theirs. */
  private async liveVms(): Promise<Vm[]> {
    const live: Vm[] = [];
    for (const sandboxId of await this.deps.store.list()) {
      const record = await this.deps.store.read(sandboxId);
      if (record === undefined) continue;
      const vm = this.deps.store.vmOf(record);
      if (await this.deps.driver.isAlive(vm)) live.push(vm);
    }
    return live;
  }

  /** The operation that an earlier process had not ended. One whose result is in the record already has ended. */
  private async openJournal(record: VmRecord): Promise<Journal | undefined> {
    const { sandboxId } = record.spec;
    const journal = await this.deps.store.readJournal(sandboxId);
    if (journal === undefined || record.operation?.id !== journal.command.operationId) return journal;
    await this.dropUsedSnapshots(record);
    await this.deps.store.clearJournal(sandboxId);
    return undefined;
  }

  /** Once the operation's result is durable: until then, what a resume has used says how far it came. */
  private async dropUsedSnapshots({ spec, state, generation }: VmRecord): Promise<void> {
    if (state === "running") await removeSnapshots(this.deps.store.dirOf(spec.sandboxId));
    if (state === "paused") await removeSnapshots(this.deps.store.dirOf(spec.sandboxId), generation);
  }

  /** From here on it is what this host does for the sandbox, and what it says it is busy with. */
  private takeUp(entry: Entry, journal: Journal): void {
    const { record } = entry;
    const { command } = journal;
    record.epoch = Math.max(record.epoch, command.epoch);
    record.opSeq = Math.max(record.opSeq, command.opSeq);
    // What the control plane discards it may not know.
    if (command.kind !== "discard") record.spec = command.spec;
    entry.journal = journal;
    entry.abort = new AbortController();
    const { signal } = entry.abort;
    void this.enqueue(entry, () => this.carryOut(entry, journal, signal));
  }

  /** Carries the command out, after those before it. Resolves once it is journalled (SV2), or is not to be. */
  async execute(command: VmCommand): Promise<Accepted> {
    const { sandboxId } = command.spec;
    if (command.kind === "cancel") return this.cancel(sandboxId, command.cancels);
    if (command.kind === "quarantine" || command.kind === "unquarantine") return await this.setQuarantined(command);
    if (command.kind === "replicate") return await this.replicate(command);
    const entry = await this.entryFor(command);
    if (entry === undefined) return "ignored";
    // A delete does not wait for what can still back out, and neither does the end of a copy that another host has gone on from.
    if (command.kind === "delete" || (command.kind === "discard" && command.epoch > entry.record.epoch)) entry.abort?.abort();
    return await this.enqueue(entry, () => this.accept(entry, command));
  }

  /** The newest observation of every sandbox on this host. */
  inventory(): Observation[] {
    return [...this.entries.values()].map((entry) => {
      const { record } = entry;
      const lastActiveMsAgo = this.deps.activity.idleMs(record.spec.sandboxId);
      const replicating = this.replication.progressOf(record.spec.sandboxId);
      return {
        ...this.observationOf(entry),
        ...(record.state === "running" ? { lastActiveMsAgo } : {}),
        ...(replicating === undefined ? {} : { replicating: { ...replicating } }),
      };
    });
  }

  /** Where requests for a sandbox go, if it runs here at that epoch. */
  async route(sandboxId: string, epoch: number): Promise<{ address: GuestAddress; agentKey: string } | undefined> {
    const entry = this.entries.get(sandboxId);
    if (entry === undefined || entry.record.epoch !== epoch || entry.record.state !== "running") return undefined;
    if (entry.record.quarantined === true) return undefined;
    const address = await this.deps.driver.guestAddress(this.deps.store.vmOf(entry.record));
    return address === undefined ? undefined : { address, agentKey: entry.record.agentKey };
  }

  /** What another host may have: a snapshot, or a stopped sandbox's disk, with nothing under way that could change it. */
  async offer(sandboxId: string, generation: number, manifestSha256: string): Promise<SnapshotCopy | undefined> {
    const entry = this.entries.get(sandboxId);
    if (entry === undefined || entry.journal !== undefined) return undefined;
    const { state, snapshot } = entry.record;
    const isMeant = snapshot?.generation === generation && snapshot.manifestSha256 === manifestSha256;
    if (!isMeant || (state !== "paused" && state !== "stopped")) return undefined;
    return (await copyableOf(entry.record, this.deps.store.dirOf(sandboxId), snapshot.driverFingerprint)).copy;
  }

  /** Looks after running VMs until the signal ends. */
  async watch(signal: AbortSignal): Promise<void> {
    const looks = new Set<Promise<void>>();
    for (let round = 0; await wait(WATCH_EVERY_MS, signal); round += 1) {
      if (round % TIDY_EVERY_ROUNDS === 0)
        await this.deps.store.dropOldIncoming().catch((err: unknown) => this.deps.log.warn({ err }, "old transfers could not be removed"));
      for (const entry of this.entries.values()) {
        // One that hangs takes its time to say nothing: the others do not wait for it.
        if (entry.isWatched === true || entry.journal !== undefined || entry.record.state !== "running") continue;
        entry.isWatched = true;
        const look = this.watchOne(entry, round)
          .catch((err: unknown) => this.deps.log.warn({ err, sandboxId: entry.record.spec.sandboxId }, "a VMM could not be looked at"))
          .finally(() => {
            delete entry.isWatched;
            looks.delete(look);
          });
        looks.add(look);
      }
    }
    this.replication.stopAll();
    await Promise.allSettled(looks);
  }

  private async watchOne(entry: Entry, round: number): Promise<void> {
    const { driver, store, fence } = this.deps;
    const vm = store.vmOf(entry.record);
    if (await fence.isFrozen(vm.sandboxId)) return;
    const { kind } = await driver.inspect(vm);
    entry.silentLooks = kind === "unknown" ? (entry.silentLooks ?? 0) + 1 : 0;
    const isNews = kind === "unknown" ? entry.silentLooks === SILENT_LOOKS : entry.record.condition !== undefined;
    const isHeld = entry.record.quarantined === true;
    if (isNews || kind === "none" || kind === (isHeld ? "running" : "paused")) await this.enqueue(entry, () => this.look(entry));
    if (kind === "running" && round % TRIM_EVERY_ROUNDS === 0) await driver.trimLogs(vm);
  }

  /** A copy that the control plane knows nothing of, or knows to have run on elsewhere. Its vCPUs stand still, and the data plane knows no way to it. */
  private async setQuarantined({ kind, spec, epoch, opSeq }: VmCommand): Promise<Accepted> {
    const entry = this.entries.get(spec.sandboxId);
    if (entry === undefined) return "ignored";
    return await this.enqueue(entry, async () => {
      const { record, journal } = entry;
      if (journal !== undefined || record.epoch !== epoch || record.opSeq !== opSeq) return "stale";
      if (record.state !== "running") return "ignored";
      if ((record.quarantined === true) === (kind === "quarantine")) {
        this.report(this.observationOf(entry));
        return "repeated";
      }
      this.deps.log.warn({ sandboxId: spec.sandboxId, epoch, kind }, "a VM is quarantined, or is so no longer");
      delete record.operation;
      if (kind === "quarantine") record.quarantined = true;
      else delete record.quarantined;
      await this.persist(record);
      await this.look(entry);
      return "journalled";
    });
  }

  private cancel(sandboxId: string, operationId: string | undefined): Accepted {
    const entry = this.entries.get(sandboxId);
    if (entry?.journal?.command.operationId !== operationId) return "ignored";
    entry?.abort?.abort();
    return "journalled";
  }

  /**
   * It has no order of its own: the run that it means is the newest here, and stands still. Its epoch may be higher: the sandbox was sent elsewhere from here, and came back. Known once
   * it is in the record.
   */
  private async replicate(command: VmCommand): Promise<Accepted> {
    const entry = this.entries.get(command.spec.sandboxId);
    if (entry === undefined) return "ignored";
    return await this.enqueue(entry, async () => {
      const { record } = entry;
      if (entry.journal !== undefined || record.epoch > command.epoch || record.opSeq > command.opSeq) return "stale";
      if (record.state !== "paused" && record.state !== "stopped") return "ignored";
      if (typeof record.snapshot?.storeKey === "string") {
        this.report(this.observationOf(entry));
        return "repeated";
      }
      const { maxBytesPerSecond } = command;
      record.replication = maxBytesPerSecond === undefined ? {} : { maxBytesPerSecond };
      delete record.replicationFailed;
      await this.deps.store.write(record);
      this.replication.start(record);
      return "journalled";
    });
  }

  private async entryFor(command: VmCommand): Promise<Entry | undefined> {
    const { sandboxId } = command.spec;
    const known = this.entries.get(sandboxId);
    if (known !== undefined) return known;
    const gone = await this.deps.store.read(sandboxId);
    const mayMake = command.kind === "create" || command.kind === "delete" || command.snapshot !== undefined;
    if (gone === undefined && !mayMake) {
      this.deps.log.warn({ sandboxId, kind: command.kind }, "a command names a sandbox that is not on this host");
      return command.kind === "discard" ? undefined : this.add(await this.blankRecord(command));
    }
    return this.add(gone ?? (await this.blankRecord(command)));
  }

  private add(record: VmRecord): Entry {
    const raced = this.entries.get(record.spec.sandboxId);
    if (raced !== undefined) return raced;
    const entry: Entry = { record, tail: Promise.resolve() };
    this.entries.set(record.spec.sandboxId, entry);
    return entry;
  }

  /** Of a sandbox that this host has never held. Nothing of it is on disk until a command is journalled. */
  private async blankRecord(command: VmCommand): Promise<VmRecord> {
    const image = await findImage(this.deps.imagesDir, command.spec.imageSha256);
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

  private async accept(entry: Entry, command: VmCommand): Promise<Accepted> {
    const { record } = entry;
    if (command.kind === "discard") {
      if (record.epoch > command.epoch || (record.state === "running" && record.epoch === command.epoch)) return "stale";
    } else {
      const order = command.epoch - record.epoch || command.opSeq - record.opSeq;
      if (order < 0) return "stale";
      if (order === 0) {
        this.report(this.observationOf(entry));
        return "repeated";
      }
    }
    const isNew = record.revision === 0;
    if (isNew && command.kind === "delete") {
      await this.settle(entry, { command, from: "deleted" }, { state: "deleted" }, {});
      return "journalled";
    }
    const journal: Journal = { command, from: record.state };
    await this.deps.store.makeRoom(record);
    await this.deps.store.writeJournal(command.spec.sandboxId, journal);
    this.takeUp(entry, journal);
    return "journalled";
  }

  private async carryOut(entry: Entry, journal: Journal, signal: AbortSignal): Promise<void> {
    const { record } = entry;
    const { kind } = journal.command;
    // A copy of a stopped sandbox's disk is for nothing once it has been started again.
    const entirely = kind === "delete" || kind === "discard" || journal.from === "stopped";
    await this.replication.stop(record.spec.sandboxId, { entirely });
    if (record.quarantined === true) await this.takeBack(record, journal);
    const step: Step = { deps: this.deps, record, journal, vm: this.deps.store.vmOf(record), signal, timings: {} };
    const outcome = await this.perform(step);
    await this.settle(entry, journal, outcome, step.timings);
    this.replication.start(record);
  }

  /** The control plane goes on with it: it is a stray no longer. What ends it anyway does so without another instruction of the guest's. */
  private async takeBack(record: VmRecord, { command }: Journal): Promise<void> {
    delete record.quarantined;
    const vm = this.deps.store.vmOf(record);
    if (command.kind === "discard" || command.kind === "delete") return;
    if ((await this.deps.driver.inspect(vm)).kind === "paused") await this.resumeStandingStill(vm, record);
  }

  private async perform(step: Step): Promise<Outcome> {
    const { command, from } = step.journal;
    try {
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
      const notBrought = isHere(step) ? undefined : await bring(step);
      return notBrought ?? (await operation(step));
    } catch (error) {
      this.deps.log.error({ err: error, sandboxId: step.vm.sandboxId, kind: command.kind }, "the operation failed unexpectedly");
      return {
        state: await this.stateNow(step),
        failed: { code: "HOST_ERROR", message: `The host failed to ${command.kind} the sandbox: ${messageOf(error)}` },
      };
    }
  }

  /** What is true of a sandbox whose operation broke off. */
  private async stateNow(step: Step): Promise<Outcome["state"]> {
    const status: VmmStatus = await this.deps.driver.inspect(step.vm).catch(() => ({ kind: "none" }) as const);
    if (status.kind === "running" || status.kind === "unknown") return "running";
    if (status.kind === "paused" && step.journal.command.kind === "pause") {
      await this.deps.driver.resumeVcpus(step.vm);
      return "running";
    }
    return step.journal.from === "running" ? "stopped" : step.journal.from;
  }

  private async settle(entry: Entry, journal: Journal, outcome: Outcome, timings: Record<string, number>): Promise<void> {
    const { record } = entry;
    const { command } = journal;
    record.epoch = Math.max(record.epoch, command.epoch);
    record.opSeq = Math.max(record.opSeq, command.opSeq);
    record.state = outcome.state;
    record.generation = outcome.generation ?? record.generation;
    record.timingsMs = timings;
    record.operation = {
      id: command.operationId,
      outcome: outcome.failed === undefined ? "succeeded" : outcome.cancelled === true ? "cancelled" : "failed",
      ...(outcome.failed === undefined ? {} : { error: outcome.failed }),
    };
    this.setOptional(record, outcome, journal.from);
    await this.persist(record);
    if (outcome.state === "failed") await this.deps.store.dropDirectory(record);
    await this.dropUsedSnapshots(record);
    await this.deps.store.clearJournal(record.spec.sandboxId);
    delete entry.journal;
    delete entry.abort;
    // A new run, or a pause that came to nothing: idleness counts from here (S23).
    if (outcome.state === "running") this.deps.activity.touch(record.spec.sandboxId);
    await this.announce(entry);
    if (outcome.state === "deleted" || outcome.state === "failed") this.drop(record.spec.sandboxId);
  }

  /** A new observation: durable before anybody hears of it (SV3). */
  private async persist(record: VmRecord): Promise<void> {
    record.revision += 1;
    record.observedAt = new Date().toISOString();
    await this.deps.store.write(record);
  }

  private drop(sandboxId: string): void {
    this.entries.delete(sandboxId);
    this.deps.activity.forget(sandboxId);
  }

  private setOptional(record: VmRecord, outcome: Outcome, from: Journal["from"]): void {
    if (outcome.cause === undefined) delete record.cause;
    else record.cause = outcome.cause;
    if (outcome.state !== "running") delete record.condition;
    if (outcome.state !== from) {
      delete record.replication;
      delete record.replicationFailed;
    }
    // A start that was given up before it asked has not touched the disk; any other may have.
    const isUntouched = outcome.state === "paused" || (outcome.state === "stopped" && outcome.cancelled === true);
    if (outcome.snapshot !== undefined) record.snapshot = outcome.snapshot;
    else if (!isUntouched) delete record.snapshot;
  }

  /** No operation: what is true of the VM now? Says so if it is news. */
  private async look(entry: Entry): Promise<void> {
    const { record } = entry;
    if (entry.journal !== undefined || (record.state !== "running" && record.state !== "failed")) return;
    const vm: Vm = this.deps.store.vmOf(record);
    // It is as it was when it was frozen: nothing may be made of its silence.
    if (await this.deps.fence.isFrozen(vm.sandboxId)) {
      this.report(this.observationOf(entry));
      return;
    }
    const status = await this.deps.driver.inspect(vm);
    if (status.kind === "running" && record.quarantined === true) await this.deps.driver.pauseVcpus(vm);
    if (status.kind === "paused" && record.quarantined !== true) await this.resumeStandingStill(vm, record);
    if (record.state === "running") await this.noteCondition(entry, status);
    if (status.kind === "none" && record.state === "running") {
      const { code, message } = await this.deps.driver.causeOfEnd(vm);
      record.state = "stopped";
      record.cause = { code, message: `${message} The file system is kept: start the sandbox.` };
      delete record.operation;
      await this.persist(record);
      this.deps.log.warn({ sandboxId: vm.sandboxId, code, reason: message }, "a VMM is gone");
      // What it used on the host goes too.
      await this.deps.driver
        .end(vm, { graceMs: 0 })
        .catch((err: unknown) => this.deps.log.warn({ err, sandboxId: vm.sandboxId }, "a VMM that is gone left something behind"));
    }
    await this.announce(entry);
  }

  /** A pause was given up while its VMM did not answer. The users' processes may be frozen; a guest where they are not takes it as well. */
  private async resumeStandingStill(vm: Vm, record: VmRecord): Promise<void> {
    this.deps.log.warn({ sandboxId: vm.sandboxId }, "a VM stood still without a command; it runs on");
    await this.deps.driver.resumeVcpus(vm);
    await this.deps.guest
      .thaw(vm, record.agentKey)
      .catch((err: unknown) => this.deps.log.warn({ err, sandboxId: vm.sandboxId }, "the guest could not be thawed"));
  }

  /** A VMM that says nothing is kept as it is: its memory is the user's. It is said, until it answers again or somebody ends it. */
  private async noteCondition({ record, silentLooks = 0 }: Entry, status: VmmStatus): Promise<void> {
    const { sandboxId } = record.spec;
    if (status.kind === "unknown") {
      if (silentLooks < SILENT_LOOKS || record.condition !== undefined) return;
      record.condition = {
        code: "vmm_unresponsive",
        message: `The VMM lives (pid ${status.pid}) but does not answer: ${status.reason}. Its memory is kept: wait, or stop or delete the sandbox.`,
      };
      this.deps.log.warn({ sandboxId, pid: status.pid, reason: status.reason }, "a VMM does not answer");
    } else {
      if (record.condition === undefined) return;
      delete record.condition;
      this.deps.log.info({ sandboxId, status: status.kind }, "a VMM answers again, or is gone");
    }
    delete record.operation;
    await this.persist(record);
  }

  private async noteStored(sandboxId: string, facts: SnapshotFacts): Promise<void> {
    await this.note(sandboxId, (record) => {
      if (!isAbout(record, facts)) return false;
      record.snapshot = facts;
      record.generation = facts.generation;
      delete record.replication;
      delete record.replicationFailed;
      return true;
    });
  }

  private async noteNotStored(sandboxId: string, facts: SnapshotFacts, cause: Cause): Promise<void> {
    await this.note(sandboxId, (record) => {
      if (record.state === "running" || !isAbout(record, facts)) return false;
      record.replicationFailed = cause;
      return true;
    });
  }

  /** A change of what is known of a sandbox, in its turn; said if `change` says that it is one. */
  private async note(sandboxId: string, change: (record: VmRecord) => boolean): Promise<void> {
    const entry = this.entries.get(sandboxId);
    if (entry === undefined) return;
    await this.enqueue(entry, async () => {
      if (!change(entry.record)) return;
      await this.persist(entry.record);
      await this.announce(entry);
    });
  }

  private async announce(entry: Entry): Promise<void> {
    const status = await this.deps.driver.inspect(this.deps.store.vmOf(entry.record)).catch(() => ({ kind: "none" }) as const);
    if (status.kind === "none") delete entry.vmm;
    else entry.vmm = { pid: status.pid, residentBytes: status.residentBytes };
    this.report(this.observationOf(entry));
  }

  private observationOf(entry: Entry): Observation {
    return observationOf(this.deps.hostId, entry);
  }

  /** One thing at a time per sandbox. */
  private enqueue<T>(entry: Entry, body: () => Promise<T>): Promise<T> {
    const turn = entry.tail.then(body);
    entry.tail = turn.catch((error: unknown) =>
      this.deps.log.error({ err: error, sandboxId: entry.record.spec.sandboxId }, "a step of the supervisor failed"),
    );
    return turn;
  }
}

/** Whether these facts are still of interest: of the snapshot that the sandbox rests on or last ran from, or of the disk of a stopped one. */
function isAbout({ state, snapshot, generation }: VmRecord, facts: SnapshotFacts): boolean {
  if (state === "paused") return snapshot?.manifestSha256 === facts.manifestSha256;
  if (state === "stopped") return facts.generation === generation + 1;
  return state === "running" && facts.generation === generation;
}
