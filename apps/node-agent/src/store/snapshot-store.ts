import type { FetchSource } from "./fetch.ts";
import type { Pace } from "./pace.ts";
import type { CopyProgress, SnapshotCopy } from "./read-chunks.ts";

export interface PutOptions {
  signal: AbortSignal;
  pace?: Pace | undefined;
  onProgress?: ((progress: CopyProgress) => void) | undefined;
}

/** Keeps snapshots beside the hosts that took them. */
export interface SnapshotStore {
  /** For messages. */
  readonly name: string;
  /**
   * Stores it, and returns its store key. What is there already is not sent again, whoever sent it:
   * after a failure simply call it again.
   */
  put(copy: SnapshotCopy, options: PutOptions): Promise<string>;
  /** An entry, to be fetched from. */
  source(storeKey: string): FetchSource;
  /** All that is stored of a sandbox. */
  remove(sandboxId: string, signal: AbortSignal): Promise<void>;
}
