import type { SandboxId } from "@torpor/contracts";
import type { FetchSource } from "./fetch.ts";
import type { Pace } from "./pace.ts";
import type { CopyProgress, SnapshotCopy } from "./read-chunks.ts";

export interface PutOptions {
  signal: AbortSignal;
  pace?: Pace | undefined;
  onProgress?: ((progress: CopyProgress) => void) | undefined;
}

/** Keeps snapshots outside the hosts that took them. */
export interface SnapshotStore {
  /** Name for messages. */
  readonly name: string;
  /**
   * Stores a snapshot, and returns its store key. Stored chunks are not sent again, whichever host
   * sent them, so a failed put can simply be repeated.
   */
  put(copy: SnapshotCopy, options: PutOptions): Promise<string>;
  /** An entry, as a source for a fetch. */
  source(storeKey: string): FetchSource;
  /** Removes everything that is stored of a sandbox. */
  remove(sandboxId: SandboxId, signal: AbortSignal): Promise<void>;
}
