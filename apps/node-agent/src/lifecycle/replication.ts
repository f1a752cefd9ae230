/**
 * Copies sandboxes at rest to the store, in the background: a paused one after its pause, a stopped
 * one on request.
 *
 * RE1  Where the file system has reflinks, a clone is read, and the sandbox may run meanwhile.
 *      Elsewhere the disk must not change while it is read: a resume ends the copy, and the next
 *      pause starts another. Chunks that are stored by then need not be sent again
 *      (store/format.ts, SF2).
 * RE2  What is not in the store yet is copied again, also after a restart of the agent, until the
 *      copy has failed ATTEMPTS times; then it needs a request.
 */
import type { Cause, SandboxId, SnapshotFacts } from "@torpor/contracts";
import { backoffMs, messageOf, sleep } from "@torpor/service";
import { wrongHash } from "../snapshot-files.ts";
import { NoSnapshotStore, NO_SNAPSHOT_STORE } from "../store/no-store.ts";
import { pacer } from "../store/pace.ts";
import type { CopyProgress } from "../store/read-chunks.ts";
import { dirname } from "node:path";
import type { LifecycleDeps } from "./context.ts";
import { type Copyable, copyableOf, DISK, cloneDisk, clonesIn, removeClones } from "./copies.ts";
import { snapshotOf, type VmRecord } from "./record.ts";

/**
 * Name of a copy: its manifest, except for the disk of a stop by an older agent, which gave disks
 * no name.
 */
export type CopyName = Pick<SnapshotFacts, "generation"> & { manifestSha256?: string };

/**
 * Results of copies. Each is noted in the sandbox's turn, which may be behind an operation that
 * waits for the copy to end; `done` is called in that turn, once the result is durable.
 */
export interface ReplicationEvents {
  stored(sandboxId: SandboxId, facts: SnapshotFacts, done: () => Promise<void>): void;
  failed(sandboxId: SandboxId, name: CopyName, cause: Cause, done: () => Promise<void>): void;
}

interface Running {
  generation: number;
  /** Limit of the copy, apart from the record: the sandbox may run meanwhile. */
  maxBytesPerSecond: number | undefined;
  abort: AbortController;
  /** True if a clone is read. Resolves once the clone is made, or cannot be made. */
  isApart: Promise<boolean>;
  ended: Promise<void>;
  progress?: CopyProgress;
}

const ATTEMPTS = 5;
const RETRY = { baseMs: 1_000, maxMs: 60_000 };
/**
 * Copies per host: a pause of many sandboxes must not take its disk and network from running ones.
 */
const AT_ONCE = 3;

export class Replication {
  private readonly deps: LifecycleDeps;
  private readonly events: ReplicationEvents;
  private readonly running = new Map<SandboxId, Running>();
  private readonly gate = new Gate(AT_ONCE);
  private isClosed = false;

  constructor(deps: LifecycleDeps, events: ReplicationEvents) {
    this.deps = deps;
    this.events = events;
  }

  /** Copies the sandbox as it is now, if the store does not have it yet. */
  start(record: VmRecord): void {
    const generation = generationOf(record);
    if (generation !== undefined) this.replace(record, generation, () => this.prepare(record));
  }

  /** Continues a copy that an earlier process began. */
  async adopt(record: VmRecord): Promise<void> {
    const { generation } = record;
    const { sandboxId } = record.spec;
    const vmDir = this.deps.store.dirOf(sandboxId);
    const isOpen = record.state === "running" && snapshotOf(record)?.generation !== generation;
    const frozen = isOpen ? await clonesIn(sandboxId, vmDir, generation) : undefined;
    if (frozen !== undefined)
      return this.replace(record, generation, async () => ({ copyable: frozen, isApart: true }));
    if (generationOf(record) === undefined) await removeClones(vmDir);
    this.start(record);
  }

  /**
   * Ends a copy that reads the sandbox's own files. `entirely`: also one that reads a clone.
   * Resolves when the copy has ended.
   */
  async stop(sandboxId: SandboxId, { entirely }: { entirely: boolean }): Promise<void> {
    const running = this.running.get(sandboxId);
    if (running === undefined || (!entirely && (await running.isApart))) return;
    running.abort.abort();
    await running.ended;
  }

  /**
   * Begins no more copies, and aborts the running ones. Resolves when they have ended. Clones stay
   * for the next process.
   */
  async close(): Promise<void> {
    this.isClosed = true;
    const running = [...this.running.values()];
    for (const { abort } of running) abort.abort();
    await Promise.all(running.map(({ ended }) => ended));
  }

  progressOf(sandboxId: SandboxId): CopyProgress | undefined {
    return this.running.get(sandboxId)?.progress;
  }

  /** One copy per sandbox: a newer one ends the older. */
  private replace(
    record: VmRecord,
    generation: number,
    prepare: () => Promise<{ copyable: Copyable; isApart: boolean }>,
  ): void {
    const { sandboxId } = record.spec;
    if (this.deps.snapshots === NO_SNAPSHOT_STORE) {
      const { code, message } = new NoSnapshotStore();
      const done = () => removeClones(this.deps.store.dirOf(sandboxId));
      return this.events.failed(
        sandboxId,
        snapshotOf(record) ?? { generation },
        { code, message },
        done,
      );
    }
    const before = this.running.get(sandboxId);
    const maxBytesPerSecond = limitOf(record);
    if (before?.generation === generation) before.maxBytesPerSecond = maxBytesPerSecond;
    if (before?.generation === generation || this.isClosed) return;
    before?.abort.abort();
    const prepared = (before?.ended ?? Promise.resolve()).then(prepare);
    const abort = new AbortController();
    const running: Running = {
      generation,
      maxBytesPerSecond,
      abort,
      isApart: prepared.then(
        ({ isApart }) => isApart,
        () => false,
      ),
      ended: Promise.resolve(),
    };
    running.ended = this.run(record, running, prepared)
      .catch((err: unknown) =>
        this.deps.log.warn({ err, sandboxId }, "sandbox could not be copied to the store"),
      )
      .finally(() => {
        if (this.running.get(sandboxId) === running) this.running.delete(sandboxId);
      });
    this.running.set(sandboxId, running);
  }

  private async prepare(record: VmRecord): Promise<{ copyable: Copyable; isApart: boolean }> {
    const vmDir = this.deps.store.dirOf(record.spec.sandboxId);
    const copyable = await copyableOf(record, vmDir, await this.deps.driver.fingerprint());
    await removeClones(vmDir, copyable.manifest.generation);
    const frozen = await cloneDisk(vmDir, copyable);
    return { copyable: frozen ?? copyable, isApart: frozen !== undefined };
  }

  private async run(
    record: VmRecord,
    running: Running,
    prepared: Promise<{ copyable: Copyable; isApart: boolean }>,
  ): Promise<void> {
    const { copyable } = await prepared;
    const { signal } = running.abort;
    try {
      await this.gate.pass(signal, () => this.copy(record, copyable, running, signal));
    } finally {
      if (signal.aborted && !this.isClosed)
        await removeClones(this.deps.store.dirOf(record.spec.sandboxId));
    }
  }

  /**
   * Removes the clone, unless a newer copy reads it. Called in the sandbox's turn, in which no copy
   * begins.
   */
  private async dropClone(sandboxId: SandboxId, running: Running): Promise<void> {
    const current = this.running.get(sandboxId) ?? running;
    if (current === running) await removeClones(this.deps.store.dirOf(sandboxId));
  }

  private async copy(
    record: VmRecord,
    { copy, manifest, facts }: Copyable,
    running: Running,
    signal: AbortSignal,
  ): Promise<void> {
    const { sandboxId } = record.spec;
    const done = () => this.dropClone(sandboxId, running);
    let failure: Cause = {
      code: "REPLICATION_FAILED",
      message: "The snapshot could not be copied to the store.",
    };
    const memory = Object.entries(copy.files).find(([name]) => name !== DISK);
    for (let attempt = 1; attempt <= ATTEMPTS && !signal.aborted; attempt += 1) {
      try {
        const wrong =
          memory === undefined
            ? undefined
            : await wrongHash(dirname(memory[1]), manifest.files, signal);
        if (wrong !== undefined) {
          failure = {
            code: "SNAPSHOT_INVALID",
            message: `The snapshot cannot be stored: ${wrong}.`,
          };
          break;
        }
        const storeKey = await this.deps.snapshots.put(copy, {
          signal,
          pace: pacer(() => running.maxBytesPerSecond, signal),
          onProgress: (progress) => (running.progress = progress),
        });
        return this.events.stored(sandboxId, { ...facts, storeKey }, done);
      } catch (err) {
        if (signal.aborted) return;
        const store = this.deps.snapshots.name;
        failure = {
          code: "REPLICATION_FAILED",
          message: `The snapshot could not be copied to ${store}: ${messageOf(err)}`,
        };
        this.deps.log.warn(
          { err, sandboxId, generation: manifest.generation, attempt },
          "snapshot could not be copied to the store",
        );
        if (attempt < ATTEMPTS) await sleep(backoffMs(attempt, RETRY), signal);
      }
    }
    if (!signal.aborted) this.events.failed(sandboxId, facts, failure, done);
  }
}

/** Generation to copy; undefined if there is nothing to copy. */
function generationOf(record: VmRecord): number | undefined {
  if (record.state !== "paused" && record.state !== "stopped") return undefined;
  const { state, snapshot, generation, replication, replicationFailed } = record;
  if (replicationFailed !== undefined) return undefined;
  if (state === "paused")
    return snapshot !== undefined && snapshot.storeKey === null ? generation : undefined;
  return replication !== undefined && typeof snapshot?.storeKey !== "string"
    ? (snapshot?.generation ?? generation + 1)
    : undefined;
}

function limitOf(record: VmRecord): number | undefined {
  return record.state === "paused" || record.state === "stopped"
    ? record.replication?.maxBytesPerSecond
    : undefined;
}

/**
 * Limit on concurrency; the others wait in the order of their arrival. Not p-queue: a task whose
 * signal aborts counts as ended there, and here it still reads the sandbox's files.
 */
class Gate {
  private free: number;
  private readonly waiting: (() => void)[] = [];

  constructor(size: number) {
    this.free = size;
  }

  /** Resolves when `body` has ended, or when the signal has ended the wait for a slot. */
  async pass(signal: AbortSignal, body: () => Promise<void>): Promise<void> {
    if (this.free > 0) this.free -= 1;
    else if (!(await this.turn(signal))) return;
    try {
      await body();
    } finally {
      const next = this.waiting.shift();
      if (next === undefined) this.free += 1;
      else next();
    }
  }

  /** Waits for a slot. False: the signal came first. */
  private async turn(signal: AbortSignal): Promise<boolean> {
    if (signal.aborted) return false;
    return await new Promise((resolve) => {
      const give = () => {
        signal.removeEventListener("abort", giveUp);
        resolve(true);
      };
      const giveUp = () => {
        this.waiting.splice(this.waiting.indexOf(give), 1);
        resolve(false);
      };
      signal.addEventListener("abort", giveUp, { once: true });
      this.waiting.push(give);
    });
  }
}
