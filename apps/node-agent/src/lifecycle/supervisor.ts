/**
 * All sandboxes of one host: runs commands in their order, one at a time per sandbox
 * (command-runner.ts), adopts what it finds after a restart (adopt.ts), notices VMMs that die
 * (watch.ts), copies sandboxes at rest to the store (replication.ts), and reports what it observed
 * (sandboxes.ts).
 */
import type { Observation, VmCommand } from "@torpor/contracts";
import { endsWithin } from "@torpor/service";
import type { GuestAddress } from "../guest-connection.ts";
import type { SnapshotCopy } from "../store/read-chunks.ts";
import { adopt } from "./adopt.ts";
import { submit } from "./command-runner.ts";
import type { LifecycleDeps, Submitted } from "./context.ts";
import { copyableOf } from "./copies.ts";
import { notesOf } from "./replicate.ts";
import { Replication } from "./replication.ts";
import { type Host, Sandboxes } from "./sandboxes.ts";
import { type StartLoad, StartSlots } from "./start-slots.ts";
import { CLOSING } from "./keyed-queue.ts";
import { WarmPool, type WarmSettings } from "./warm-pool.ts";
import { watch } from "./watch.ts";

export interface SupervisorDeps extends LifecycleDeps {
  hostId: string;
  startsAtOnce: number;
  warm: WarmSettings;
  /** Whether new sandboxes may come to this host. */
  isOpen(): boolean;
}

export class Supervisor {
  private readonly host: Host;
  private readonly closing = new AbortController();
  private watching: Promise<unknown> = Promise.resolve();

  constructor(deps: SupervisorDeps, report: (seen: Observation) => void) {
    const sandboxes = new Sandboxes(deps, report);
    const slots = new StartSlots(deps.startsAtOnce);
    const warm = new WarmPool(deps, deps.warm, {
      reservedMib: () => sandboxes.reservedMib(),
      isIdle: () => !sandboxes.isBeginning(),
      isOpen: () => deps.isOpen(),
    });
    this.host = {
      deps,
      sandboxes,
      replication: new Replication(deps, notesOf(sandboxes)),
      slots,
      warm,
    };
  }

  /**
   * Takes over what an earlier process left: finishes journalled operations, finds running VMs
   * again.
   */
  async adopt(): Promise<void> {
    await adopt(this.host);
  }

  /** Looks after running VMs, and keeps some warm, until it is closed. */
  async watch(): Promise<void> {
    const { signal } = this.closing;
    this.watching = Promise.all([watch(this.host, signal), this.host.warm.run(signal)]);
    await this.watching;
  }

  /** VMs that are kept warm now. */
  warmVms(): number {
    return this.host.warm.size;
  }

  /**
   * Submits a command, to be run after those before it. Resolves once it is journalled (SV2), or is
   * not to be.
   */
  async submit(command: VmCommand): Promise<Submitted> {
    return this.closing.signal.aborted ? CLOSING : await submit(this.host, command);
  }

  /** The newest observation of every sandbox on this host. */
  inventory(): Observation[] {
    const { deps, sandboxes, replication } = this.host;
    return sandboxes.all().map((entry) => {
      const { record, fetching } = entry;
      const lastActiveMsAgo = deps.activity.idleMs(record.spec.sandboxId);
      const replicating = replication.progressOf(record.spec.sandboxId);
      return {
        ...sandboxes.observationOf(entry),
        ...(record.state === "running" ? { lastActiveMsAgo } : {}),
        ...(replicating === undefined ? {} : { replicating: { ...replicating } }),
        ...(fetching === undefined ? {} : { fetching: { ...fetching } }),
      };
    });
  }

  /** What this host starts now, and what waits for that. */
  starts(): StartLoad {
    return this.host.slots.load;
  }

  /** Where requests for a sandbox go, if it runs here at that epoch. */
  async route(
    sandboxId: string,
    epoch: number,
  ): Promise<{ address: GuestAddress; agentKey: string } | undefined> {
    const { deps, sandboxes } = this.host;
    const record = sandboxes.find(sandboxId)?.record;
    if (
      record === undefined ||
      record.epoch !== epoch ||
      record.state !== "running" ||
      record.quarantined === true
    )
      return undefined;
    const address = await deps.driver.guestAddress(deps.store.vmOf(record));
    return address === undefined ? undefined : { address, agentKey: record.agentKey };
  }

  /**
   * What another host may have: a snapshot, or a stopped sandbox's disk, with nothing under way
   * that could change it.
   */
  async offer(
    sandboxId: string,
    generation: number,
    manifestSha256: string,
  ): Promise<SnapshotCopy | undefined> {
    const { deps, sandboxes } = this.host;
    const entry = sandboxes.find(sandboxId);
    if (entry === undefined || entry.journal !== undefined || this.closing.signal.aborted)
      return undefined;
    const { state, snapshot } = entry.record;
    const isMeant =
      snapshot?.generation === generation && snapshot.manifestSha256 === manifestSha256;
    if (!isMeant || (state !== "paused" && state !== "stopped")) return undefined;
    return (await copyableOf(entry.record, deps.store.dirOf(sandboxId), snapshot.driverFingerprint))
      .copy;
  }

  /**
   * The end: nothing is taken or begun from here on, copies to the store break off. True once
   * nothing goes on any more; false when something still does after `limitMs`. An operation is
   * journalled, so the next process takes it up wherever this one leaves it.
   */
  async close(limitMs: number): Promise<boolean> {
    this.closing.abort();
    const { sandboxes, replication, slots, warm } = this.host;
    slots.close();
    return await endsWithin(
      Promise.all([sandboxes.queue.close(), replication.close(), this.watching, warm.ended()]),
      limitMs,
    );
  }
}
