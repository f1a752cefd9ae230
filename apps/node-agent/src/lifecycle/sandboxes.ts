/**
 * The sandboxes of one host: what is known of each, and what is said of it.
 *
 * SB1  An observation is durable (vm.json) before it is reported, and stays in the inventory until
 *      the next one.
 */
import type { Observation, VmCommand } from "@torpor/contracts";
import type { CopyProgress } from "../store/read-chunks.ts";
import type { LifecycleDeps } from "./context.ts";
import { takesMemory } from "./commit.ts";
import { copyableOf, hasName } from "./copies.ts";
import { observationOf, type Observed } from "./observation.ts";
import type { VmRecord } from "./record.ts";
import type { Replication } from "./replication.ts";
import type { StartSlots } from "./start-slots.ts";
import { type CLOSING, KeyedQueue } from "./keyed-queue.ts";
import type { WarmPool } from "./warm-pool.ts";

export interface Entry extends Observed {
  /** Ends the operation that is being carried out, if it can still back out. */
  abort?: AbortController;
  /** How much has arrived of what the operation has brought here. */
  fetching?: CopyProgress;
  /** Looks in a row that the VMM has not answered. */
  failedProbes?: number;
  /** A create of it is being journalled: what is taken for that counts as its own already. */
  isBeginning?: boolean;
  /** A look is under way. */
  isWatched?: boolean;
}

/** What the duties of a supervisor share. */
export interface Host {
  deps: LifecycleDeps;
  sandboxes: Sandboxes;
  replication: Replication;
  slots: StartSlots;
  warm: WarmPool;
}

/** Operations that were cancelled before they were known, at most: the oldest are forgotten. */
const MAX_CALLED_OFF = 1_000;

const begins = ({ journal, isBeginning }: Entry) =>
  isBeginning === true || (journal !== undefined && takesMemory(journal));

export class Sandboxes {
  readonly queue: KeyedQueue;
  private readonly deps: LifecycleDeps & { hostId: string };
  private readonly report: (seen: Observation) => void;
  private readonly entries = new Map<string, Entry>();
  private readonly calledOff = new Set<string>();
  /** Those that a delete waits for: what is taken up before its turn has come backs out. */
  private readonly deleting = new Set<string>();

  constructor(deps: LifecycleDeps & { hostId: string }, report: (seen: Observation) => void) {
    this.deps = deps;
    this.report = report;
    this.queue = new KeyedQueue(deps.log);
  }

  find(sandboxId: string): Entry | undefined {
    return this.entries.get(sandboxId);
  }

  all(): Entry[] {
    return [...this.entries.values()];
  }

  /** Whether an operation that begins a run is under way, or waits here. */
  isBeginning(): boolean {
    return this.all().some(begins);
  }

  /** Memory of those that run, or are about to. */
  reservedMib(): number {
    const holds = (entry: Entry) => entry.record.state === "running" || begins(entry);
    return this.all().reduce(
      (sum, entry) => sum + (holds(entry) ? entry.record.spec.resources.memoryMib : 0),
      0,
    );
  }

  /** The one that is known by now, if somebody was faster. */
  add(record: VmRecord): Entry {
    const raced = this.entries.get(record.spec.sandboxId);
    if (raced !== undefined) return raced;
    const entry: Entry = { record };
    this.entries.set(record.spec.sandboxId, entry);
    return entry;
  }

  drop(sandboxId: string): void {
    this.entries.delete(sandboxId);
    this.deps.activity.forget(sandboxId);
  }

  /** The operation is not known yet, and is not to be carried out when it comes. */
  callOff(operationId: string): void {
    this.calledOff.add(operationId);
    const [oldest] = this.calledOff;
    if (this.calledOff.size > MAX_CALLED_OFF && oldest !== undefined) this.calledOff.delete(oldest);
  }

  /** What is under way, or is taken up before `isDeleted`, backs out if it still can. */
  willBeDeleted(sandboxId: string): void {
    this.deleting.add(sandboxId);
    this.entries.get(sandboxId)?.abort?.abort();
  }

  /** The turn of its delete has come. */
  isDeleted(sandboxId: string): void {
    this.deleting.delete(sandboxId);
  }

  isCalledOff({ kind, operationId, spec }: VmCommand): boolean {
    return (
      this.calledOff.has(operationId) || (kind !== "delete" && this.deleting.has(spec.sandboxId))
    );
  }

  /** One thing at a time per sandbox. */
  inTurn<T>({ record }: Entry, body: () => Promise<T>): Promise<T | typeof CLOSING> {
    return this.queue.run(record.spec.sandboxId, body);
  }

  /** A new observation: durable before anybody hears of it (SB1). */
  async persist(record: VmRecord): Promise<void> {
    record.revision += 1;
    record.observedAt = new Date().toISOString();
    await this.deps.store.write(record);
  }

  /**
   * A stopped sandbox's disk gets a name, by which another host can ask for it, if it has not the
   * one in the record. One that cannot be read gets none: it goes nowhere.
   */
  async nameDisk(record: VmRecord): Promise<void> {
    const { store, driver, log } = this.deps;
    const { sandboxId } = record.spec;
    const dir = store.dirOf(sandboxId);
    if (record.snapshot !== undefined && (await hasName(dir, record.snapshot))) return;
    delete record.snapshot;
    try {
      record.snapshot = (await copyableOf(record, dir, await driver.fingerprint())).facts;
    } catch (err) {
      log.error({ err, sandboxId }, "the disk of a stopped sandbox cannot be read");
    }
  }

  /** Says what was persisted, with the VMM as it is now. */
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
   * A change of what is known of a sandbox, in its turn; said if `change` says that it is one.
   * `done` follows, in the same turn, once it is durable.
   */
  note(sandboxId: string, change: (record: VmRecord) => boolean, done: () => Promise<void>): void {
    void this.queue.run(sandboxId, async () => {
      const entry = this.entries.get(sandboxId);
      if (entry !== undefined && change(entry.record)) {
        await this.persist(entry.record);
        await this.reportEntry(entry);
      }
      await done();
    });
  }

  observationOf(entry: Entry): Observation {
    return observationOf(this.deps.hostId, entry);
  }
}
