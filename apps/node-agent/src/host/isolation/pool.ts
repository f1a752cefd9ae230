/**
 * Pool of network slots: the owner of each, and some that are prepared for the next VMs, because
 * making a namespace takes longest.
 *
 * Ownership is read from the host once, at the start; from then on only this process changes it
 * (naming.ts: the tag).
 */
import type { Logger } from "@torpor/service";
import { breakConnections } from "../../guest-connection.ts";
import { linkCount } from "./addresses.ts";
import type { Egress } from "./firewall.ts";
import {
  assignSlot,
  listSlots,
  makeSlot,
  type Plumbing,
  removeSlot,
  setRules,
  type NetworkSlot,
  slotAt,
} from "./slots.ts";

/** Addresses in a row that other programs may hold before that is an error. */
const MAX_TRIES = 64;
const MAX_SLOTS = 99_999;

export class SlotPool {
  private readonly plumbing: Plumbing;
  private readonly size: number;
  private readonly log: Pick<Logger, "warn">;
  /**
   * Numbers of all slots, also of those being made or removed, and those whose address is taken.
   */
  private readonly used = new Set<number>();
  private readonly owned = new Map<string, NetworkSlot>();
  /** Owners that were found at the start, until `collect` has checked them. */
  private readonly inherited = new Set<string>();
  private readonly prepared: NetworkSlot[] = [];
  private refilling: Promise<void> | undefined;
  private isClosed = false;

  private constructor(plumbing: Plumbing, size: number, log: Pick<Logger, "warn">) {
    this.plumbing = plumbing;
    this.size = size;
    this.log = log;
  }

  /** Takes over the slots that have an owner, and removes those that have none. */
  static async open(
    plumbing: Plumbing,
    size: number,
    log: Pick<Logger, "warn">,
  ): Promise<SlotPool> {
    const pool = new SlotPool(plumbing, size, log);
    for (const { number, owner } of await listSlots(plumbing)) {
      const slot = slotAt(plumbing, number);
      if (owner === undefined || pool.owned.has(owner)) {
        await removeSlot(plumbing, slot);
        continue;
      }
      pool.used.add(number);
      pool.owned.set(owner, slot);
      pool.inherited.add(owner);
    }
    return pool;
  }

  /** Makes and removes one slot. Throws the reason if this machine cannot have namespaces. */
  async tryOne(): Promise<void> {
    const slot = await this.make();
    try {
      await assignSlot(this.plumbing, slot, "probe", this.plumbing.egress);
    } finally {
      await this.discard(slot);
    }
  }

  /** Takes a slot for a sandbox that has none, with the rules of its VM in force. */
  async take(owner: string, egress: Egress | undefined): Promise<NetworkSlot> {
    const slot = this.prepared.shift() ?? (await this.make());
    this.refill();
    this.owned.set(owner, slot);
    try {
      await assignSlot(this.plumbing, slot, owner, egress);
      return slot;
    } catch (error) {
      await this.drop(owner);
      throw error;
    }
  }

  /** Sets the egress of a VM that was enclosed without. Throws if the VM has no slot. */
  async admit(name: string, egress: Egress): Promise<void> {
    const slot = this.owned.get(name);
    if (slot === undefined) throw new Error(`${name} has no network on this host`);
    await setRules(slot, egress);
  }

  /** Removes the sandbox's slot, if it has one. */
  async drop(owner: string): Promise<void> {
    const slot = this.owned.get(owner);
    if (slot === undefined) return;
    await this.discard(slot);
    breakConnections(slot.link.guest);
    this.owned.delete(owner);
    this.inherited.delete(owner);
  }

  /** Drops the slots of an earlier process whose sandboxes are not among `live`. */
  async collect(live: ReadonlySet<string>): Promise<void> {
    for (const owner of this.inherited) if (!live.has(owner)) await this.drop(owner);
    this.inherited.clear();
  }

  /** Prepares slots in the background, up to the pool's size. */
  refill(): void {
    if (this.refilling !== undefined || this.isClosed) return;
    this.refilling = this.prepare()
      .catch((err: unknown) =>
        this.log.warn({ err }, "network could not be prepared; the next VM makes its own"),
      )
      .finally(() => (this.refilling = undefined));
  }

  private async prepare(): Promise<void> {
    while (!this.isClosed && this.prepared.length < this.size)
      this.prepared.push(await this.make());
  }

  /** Removes the prepared slots. Those of VMs stay. */
  async close(): Promise<void> {
    this.isClosed = true;
    await this.refilling;
    for (const slot of this.prepared.splice(0)) await this.discard(slot);
  }

  private async make(): Promise<NetworkSlot> {
    for (let tries = 0; tries < MAX_TRIES; tries += 1) {
      const slot = slotAt(this.plumbing, this.nextNumber());
      this.used.add(slot.number);
      try {
        if ((await makeSlot(this.plumbing, slot)) === "made") return slot;
      } catch (error) {
        this.used.delete(slot.number);
        throw error;
      }
    }
    throw new Error(
      `other programs use ${MAX_TRIES} addresses of ${this.plumbing.range.text} in a row: give this agent another VM_NETWORK_CIDR`,
    );
  }

  private nextNumber(): number {
    const count = Math.min(linkCount(this.plumbing.range), MAX_SLOTS);
    for (let number = 0; number < count; number += 1) if (!this.used.has(number)) return number;
    throw new Error(
      `${this.plumbing.range.text} has no address left for one more VM: give this agent a larger VM_NETWORK_CIDR`,
    );
  }

  private async discard(slot: NetworkSlot): Promise<void> {
    await removeSlot(this.plumbing, slot);
    this.used.delete(slot.number);
  }
}
