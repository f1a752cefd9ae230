import type { Cause, CommitRequest } from "@torpor/contracts";
import type { Logger, ProcessIdentity } from "@torpor/service";
import type { Driver, Vm } from "../drivers/driver.ts";
import type { Isolation } from "../host/isolation.ts";
import type { FetchSource } from "../store/fetch.ts";
import type { PeerReference } from "../store/peer.ts";
import type { CopyProgress } from "../store/read-chunks.ts";
import type { SnapshotStore } from "../store/snapshot-store.ts";
import type { Guest } from "./guest.ts";
import type { CLOSING } from "./keyed-queue.ts";
import type { Journal, VmRecord, VmStore } from "./record.ts";

export type CommitAnswer = { kind: "granted" } | { kind: "refused"; reason: string };

/** When sandboxes were last used through this host's data plane. */
export interface HostActivity {
  /** Its idle time starts anew. */
  touch(sandboxId: string): void;
  /** 0 while a request waits for its answer. */
  idleMs(sandboxId: string): number;
  forget(sandboxId: string): void;
}

/**
 * The process that freezes VMs whose sandboxes may be restored elsewhere when this host's lease
 * ends (../fence).
 */
export interface HostFence {
  /** Why no such VM may begin to run now; undefined: nothing speaks against it. */
  refusal(): Promise<string | undefined>;
  /** It would let that process go on: it was started under the lease that runs now. */
  covers(process: Pick<ProcessIdentity, "startTime">): boolean;
  /** It has frozen the sandbox's VM, and nothing that is asked of it will be answered. */
  isFrozen(sandboxId: string): Promise<boolean>;
  /**
   * Waits for a frozen VM of that run to go on. False: it still stands, after a while, or when the
   * signal ends.
   */
  untilThawed(sandboxId: string, epoch: number, signal: AbortSignal): Promise<boolean>;
}

/**
 * What became of a submitted command. `journalled`: it will be run and completed. `stale`: a newer
 * command is known. `repeated`: its result was reported again. `ignored`: this host has nothing to
 * do. `closing`: this process ends and has not journalled the command, which has to come again.
 */
export type Submitted = "journalled" | "stale" | "repeated" | "ignored" | typeof CLOSING;

/** What the steps of a lifecycle work with. */
export interface LifecycleDeps {
  store: VmStore;
  driver: Driver;
  isolation: Pick<Isolation, "collect">;
  guest: Guest;
  snapshots: SnapshotStore;
  /** A snapshot on the host whose data plane is at `sourceUrl`. */
  peer(sandboxId: string, reference: PeerReference): FetchSource;
  activity: HostActivity;
  fence: HostFence;
  /** This host's private key, for what is sealed in its commands: PEM. */
  commandKey: string;
  imagesDir: string;
  /** May the operation pass its point of no return? No answer in time counts as no. */
  commit(request: Omit<CommitRequest, "type" | "version" | "hostId">): Promise<CommitAnswer>;
  /** VMM user, where the agent is root. */
  uid: number | undefined;
  log: Logger;
}

/** One operation that runs. */
export interface Step {
  deps: LifecycleDeps;
  record: VmRecord;
  journal: Journal;
  vm: Vm;
  /** Its VM was kept warm, and was taken for it by this process (warm-pool.ts). */
  isWarm: boolean;
  /** Ends when the operation is to back out. */
  signal: AbortSignal;
  /** Told how much of what has to be brought here has arrived. */
  onFetch: (progress: CopyProgress) => void;
  /** Milliseconds per named step, reported with the outcome. */
  timings: Record<string, number>;
}

/** What is true now, and what became of the operation. */
export type Outcome = Pick<VmRecord, "state"> &
  Partial<Pick<VmRecord, "snapshot" | "cause" | "generation">> & {
    failed?: Cause;
    cancelled?: boolean;
    /** The disk is as the operation found it, with the name that it had, or none. */
    isUntouched?: boolean;
  };

export async function timed<T>(step: Step, name: string, body: () => Promise<T>): Promise<T> {
  const startedAt = performance.now();
  try {
    return await body();
  } finally {
    step.timings[name] = Math.round(performance.now() - startedAt);
  }
}
