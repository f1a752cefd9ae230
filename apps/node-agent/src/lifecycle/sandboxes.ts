/**
 * The sandboxes of one host: what the agent knows of each, and what it reports.
 *
 * SB1  An observation is durable (vm.json) before it is reported, and stays in the inventory until
 *      the next one.
 */
import type { HostId, Observation, OperationId, SandboxId, VmCommand } from "@torpor/contracts";
import { backoffMs, sleep } from "@torpor/service";
import type { CopyProgress } from "../store/read-chunks.ts";
import type { LifecycleDeps } from "./context.ts";
import { takesMemory } from "./commit.ts";
import { copyableOf, hasName } from "./copies.ts";
import { observationOf, type Observed } from "./observation.ts";
import { named, snapshotOf, type VmRecord } from "./record.ts";
import type { Replication } from "./replication.ts";
import type { StartSlots } from "./start-slots.ts";
import { type CLOSING, KeyedQueue } from "./keyed-queue.ts";
import type { WarmPool } from "./warm-pool.ts";

export interface Entry extends Observed {
  /** Aborts the running operation, if it can still back out. */
  abort?: AbortController;
  /** Progress of the operation's fetch. */
  fetching?: CopyProgress;
  /** Inspections in a row that the VMM did not answer. */
  failedProbes?: number;
  /** True while a create is being journalled: a VM that was taken for it counts as its own. */
  isBeginning?: boolean;
  /** True while an inspection is under way. */
  isWatched?: boolean;
}

/** Parts that the tasks of a supervisor share. */
export interface Host {
  deps: LifecycleDeps;
  sandboxes: Sandboxes;
  replication: Replication;
  slots: StartSlots;
  warm: WarmPool;
}

const WRITE_RETRY = { baseMs: 500, maxMs: 30_000 };
const NOTE_ATTEMPTS = 3;
/** Operations that were cancelled before they were known, at most: the oldest are forgotten. */
const MAX_CALLED_OFF = 1_000;

const begins = ({ journal, isBeginning }: Entry) =>
  isBeginning === true || (journal !== undefined && takesMemory(journal));

export class Sandboxes {
  readonly queue: KeyedQueue;
  private readonly deps: LifecycleDeps & { hostId: HostId };
  private readonly report: (seen: Observation) => void;
  private readonly entries = new Map<SandboxId, Entry>();
  private readonly calledOff = new Set<OperationId>();
  /** Sandboxes with a waiting delete: operations that begin before its turn back out. */
  private readonly deleting = new Set<SandboxId>();

  constructor(deps: LifecycleDeps & { hostId: HostId }, report: (seen: Observation) => void) {
    this.deps = deps;
    this.report = report;
    this.queue = new KeyedQueue(deps.log);
  }

  find(sandboxId: SandboxId): Entry | undefined {
    return this.entries.get(sandboxId);
  }

  all(): Entry[] {
    return [...this.entries.values()];
  }

  /** True if an operation that begins a run is under way or waits. */
  isBeginning(): boolean {
    return this.all().some(begins);
  }

  /** Memory of the sandboxes that run, or are about to run. */
  reservedMib(): number {
    const holds = (entry: Entry) => entry.record.state === "running" || begins(entry);
    return this.all().reduce(
      (sum, entry) => sum + (holds(entry) ? entry.record.spec.resources.memoryMib : 0),
      0,
    );
  }

  /** Adds an entry, or returns the existing one. */
  add(record: VmRecord): Entry {
    const raced = this.entries.get(record.spec.sandboxId);
    if (raced !== undefined) return raced;
    const entry: Entry = { record };
    this.entries.set(record.spec.sandboxId, entry);
    return entry;
  }

  drop(sandboxId: SandboxId): void {
    this.entries.delete(sandboxId);
    this.deps.activity.forget(sandboxId);
  }

  /** Cancels an operation that is not journalled yet: once journalled, it backs out. */
  callOff(operationId: OperationId): void {
    this.calledOff.add(operationId);
    const [oldest] = this.calledOff;
    if (this.calledOff.size > MAX_CALLED_OFF && oldest !== undefined) this.calledOff.delete(oldest);
  }

  /** Makes the running operation, and those that begin before `isDeleted`, back out if they can. */
  willBeDeleted(sandboxId: SandboxId): void {
    this.deleting.add(sandboxId);
    this.entries.get(sandboxId)?.abort?.abort();
  }

  /** Called when the turn of the delete has come. */
  isDeleted(sandboxId: SandboxId): void {
    this.deleting.delete(sandboxId);
  }

  isCalledOff({ kind, operationId, spec }: VmCommand): boolean {
    return (
      this.calledOff.has(operationId) || (kind !== "delete" && this.deleting.has(spec.sandboxId))
    );
  }

  /** Runs `body` in the sandbox's turn: one body at a time per sandbox. */
  inTurn<T>({ record }: Entry, body: () => Promise<T>): Promise<T | typeof CLOSING> {
    return this.queue.run(record.spec.sandboxId, body);
  }

  /**
   * Writes a record as a new observation, which is then the sandbox's: durable before it is
   * reported (SB1).
   */
  async persist(entry: Entry, record: VmRecord): Promise<void> {
    const revision = record.revision + 1;
    const observed = { ...record, revision, observedAt: new Date().toISOString() };
    await this.deps.store.write(observed);
    entry.record = observed;
  }

  /**
   * Names a stopped sandbox's disk, unless it has the name in the record. Another host requests the
   * disk by that name. A disk that cannot be read gets no name, and is never copied.
   */
  async nameDisk(record: VmRecord): Promise<VmRecord> {
    if (record.state !== "stopped") return record;
    const { store, driver, log } = this.deps;
    const { sandboxId } = record.spec;
    const dir = store.dirOf(sandboxId);
    const known = snapshotOf(record);
    if (known !== undefined && (await hasName(dir, known))) return record;
    const nameless = named(record, undefined);
    try {
      const { facts } = await copyableOf(nameless, dir, await driver.fingerprint());
      return named(nameless, facts);
    } catch (err) {
      log.error({ err, sandboxId }, "disk of a stopped sandbox could not be read");
      return nameless;
    }
  }

  /**
   * Repeats a write of what has happened already, while it fails (a full disk). False: the attempts
   * were used up, or this process ended first.
   */
  async untilWritten(
    what: { kind: string; sandboxId?: string; operationId?: string },
    attempts: number,
    write: () => Promise<void>,
  ): Promise<boolean> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        await write();
        return true;
      } catch (err) {
        this.deps.log.error({ err, ...what, attempt }, "result could not be written");
        if (attempt >= attempts) return false;
        if (!(await sleep(backoffMs(attempt, WRITE_RETRY), this.queue.signal))) return false;
      }
    }
  }

  /** Reports what was persisted, with the current VMM. */
  async reportEntry(entry: Entry): Promise<void> {
    const status = await this.deps.driver
      .inspect(this.deps.store.vmOf(entry.record))
      .catch(() => ({ kind: "none" }) as const);
    if (status.kind === "none") delete entry.vmm;
    else entry.vmm = { pid: status.pid, residentBytes: status.residentBytes };
    this.reportAgain(entry);
  }

  reportAgain(entry: Entry): void {
    this.report(this.observationOf(entry));
  }

  /**
   * Changes a record in the sandbox's turn, and reports it, unless `change` returns undefined.
   * `done` follows in the same turn, once the change is durable. A change that cannot be written is
   * given up after some attempts, because a delete that makes room may wait for the turn.
   */
  note(
    sandboxId: SandboxId,
    change: (record: VmRecord) => VmRecord | undefined,
    done: () => Promise<void>,
  ): void {
    void this.queue.run(sandboxId, async () => {
      const entry = this.entries.get(sandboxId);
      const changed = entry === undefined ? undefined : change(entry.record);
      if (entry !== undefined && changed !== undefined) {
        const write = () => this.persist(entry, changed);
        if (await this.untilWritten({ kind: "replicate", sandboxId }, NOTE_ATTEMPTS, write))
          await this.reportEntry(entry);
      }
      await done();
    });
  }

  observationOf(entry: Entry): Observation {
    return observationOf(this.deps.hostId, entry);
  }
}
