/**
 * Copies snapshots of paused sandboxes to the store, in the background. A resume cancels it: the disk must not change while it is read.
 */
import { pause as wait } from "@torpor/service";
import type { LifecycleDeps } from "./context.ts";
import type { VmRecord } from "./record.ts";

const ATTEMPTS = 5;
const RETRY_MS = 2_000;

export class Replication {
  private readonly deps: LifecycleDeps;
  private readonly stored: (sandboxId: string, generation: number, storeKey: string) => Promise<void>;
  private readonly running = new Map<string, { abort: AbortController; ended: Promise<void> }>();

  constructor(deps: LifecycleDeps, stored: (sandboxId: string, generation: number, storeKey: string) => Promise<void>) {
    this.deps = deps;
    this.stored = stored;
  }

  start(record: VmRecord): void {
    const { sandboxId } = record.spec;
    const { snapshot } = record;
    if (snapshot === undefined || snapshot.storeKey !== null || this.running.has(sandboxId)) return;
    const abort = new AbortController();
    const ended = this.copy(sandboxId, snapshot.generation, abort.signal).finally(() => this.running.delete(sandboxId));
    this.running.set(sandboxId, { abort, ended });
  }

  /** Resolves when nothing reads the sandbox's files any more. */
  async stop(sandboxId: string): Promise<void> {
    const running = this.running.get(sandboxId);
    running?.abort.abort();
    await running?.ended;
  }

  stopAll(): void {
    for (const { abort } of this.running.values()) abort.abort();
  }

  private async copy(sandboxId: string, generation: number, signal: AbortSignal): Promise<void> {
    const storeKey = `${sandboxId}-${generation}`;
    for (let attempt = 1; attempt <= ATTEMPTS && !signal.aborted; attempt += 1) {
      try {
        await this.deps.snapshots.put(storeKey, this.deps.store.dirOf(sandboxId), generation, signal);
        // Not awaited: it takes its turn behind an operation that may be waiting for this copy to end.
        void this.stored(sandboxId, generation, storeKey);
        return;
      } catch (err) {
        if (signal.aborted) return;
        this.deps.log.warn({ err, sandboxId, generation, attempt }, "the snapshot could not be copied to the store");
        await wait(RETRY_MS * attempt, signal);
      }
    }
  }
}
