/**
 * All sandboxes of one host: runs commands in their order, one at a time per sandbox
 * (command-runner.ts), adopts what it finds after a restart (adopt.ts), notices VMMs that die
 * (watch.ts), copies sandboxes at rest to the store (replication.ts), and reports what it observed
 * (sandboxes.ts).
 */
import type { HostId, Observation, SandboxId, VmCommand } from "@torpor/contracts";
import { endsWithin } from "@torpor/service";
import type { GuestAddress } from "../guest-connection.ts";
import type { SnapshotCopy } from "../store/read-chunks.ts";
import { adopt } from "./adopt.ts";
import { submit } from "./command-runner.ts";
import type { LifecycleDeps, Submitted } from "./context.ts";
import { copyableOf } from "./copies.ts";
import { notesOf } from "./replicate.ts";
import { isQuarantined, snapshotOf } from "./record.ts";
import { Replication } from "./replication.ts";
import { type Host, Sandboxes } from "./sandboxes.ts";
import { type StartLoad, StartSlots } from "./start-slots.ts";
import { CLOSING } from "./keyed-queue.ts";
import { WarmPool, type WarmSettings } from "./warm-pool.ts";
import { watch } from "./watch.ts";

export interface SupervisorDeps extends LifecycleDeps {
  hostId: HostId;
  startsAtOnce: number;
  warm: WarmSettings;
  /** True if new sandboxes may come to this host. */
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

  /** Adopts what an earlier process left: finishes journalled operations, finds the running VMs. */
  async adopt(): Promise<void> {
    await adopt(this.host);
  }

  /** Watches running VMs, and keeps some warm, until the supervisor is closed. */
  async watch(): Promise<void> {
    const { signal } = this.closing;
    this.watching = Promise.all([watch(this.host, signal), this.host.warm.run(signal)]);
    await this.watching;
  }

  /** Number of VMs that are kept warm now. */
  warmVms(): number {
    return this.host.warm.size;
  }

  /**
   * Submits a command behind the earlier ones. Resolves once the command is journalled (SV2), or is
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

  /** Running and waiting starts of this host. */
  starts(): StartLoad {
    return this.host.slots.load;
  }

  /**
   * Target of proxy requests to a sandbox; undefined unless it runs here at that epoch and is not
   * in quarantine.
   */
  async route(
    sandboxId: SandboxId,
    epoch: number,
  ): Promise<{ address: GuestAddress; agentKey: string } | undefined> {
    const { deps, sandboxes } = this.host;
    const record = sandboxes.find(sandboxId)?.record;
    if (
      record === undefined ||
      record.epoch !== epoch ||
      record.state !== "running" ||
      isQuarantined(record)
    )
      return undefined;
    const address = await deps.driver.guestAddress(deps.store.vmOf(record));
    return address === undefined ? undefined : { address, agentKey: record.agentKey };
  }

  /**
   * Files that another host may fetch: a snapshot, or a stopped sandbox's disk. Undefined while an
   * operation may change them.
   */
  async offer(
    sandboxId: SandboxId,
    generation: number,
    manifestSha256: string,
  ): Promise<SnapshotCopy | undefined> {
    const { deps, sandboxes } = this.host;
    const entry = sandboxes.find(sandboxId);
    if (entry === undefined || entry.journal !== undefined || this.closing.signal.aborted)
      return undefined;
    const { state } = entry.record;
    const snapshot = snapshotOf(entry.record);
    const isMeant =
      snapshot?.generation === generation && snapshot.manifestSha256 === manifestSha256;
    if (!isMeant || (state !== "paused" && state !== "stopped")) return undefined;
    return (await copyableOf(entry.record, deps.store.dirOf(sandboxId), snapshot.driverFingerprint))
      .copy;
  }

  /**
   * Closes the supervisor: nothing is submitted or begun from here on, and copies to the store are
   * aborted. False if something still runs after `limitMs`. An operation is journalled, so the next
   * process continues it.
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
