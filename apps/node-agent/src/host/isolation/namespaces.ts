/**
 * Each VM as a stranger: a network namespace and a cgroup of its own, a user without rights.
 *
 * The order in which its VMM gets there: the cgroup first, so that there is no moment outside of
 * it; then the namespace; then the user, which can do neither.
 */
import { stat } from "node:fs/promises";
import type { Logger } from "@torpor/service";
import { hostNameOf, type Vm } from "../../drivers/driver.ts";
import {
  type Enclosure,
  type Isolation,
  type Needs,
  unprivileged,
  type VmNetwork,
} from "../isolation.ts";
import type { Cgroups, Limited } from "./cgroups.ts";
import { CONTROL_PORT, TAP } from "./firewall.ts";
import type { SlotPool } from "./pool.ts";
import { inScope } from "./scopes.ts";
import type { Plumbing, NetworkSlot } from "./slots.ts";

/** For a VMM that says nothing else: itself, and the page cache of what it reads and writes. */
const OVERHEAD_MIB = 256;
const TUN_DEVICE = "/dev/net/tun";
/** Joins the cgroup $1, then becomes the rest. */
const JOIN = 'echo 0 > "$1/cgroup.procs"; shift; exec "$@"';
/**
 * In the mount namespace that `ip netns exec` makes, and nowhere else, anybody may open the tap
 * device: whose a tap is, the kernel checks by its owner.
 */
const OPEN_TUN = `mount -t tmpfs -o mode=0755,size=64k tmpfs ${TUN_DEVICE.slice(0, -4)}; mknod -m 0666 ${TUN_DEVICE} c 10 200; exec "$@"`;

export interface NamespaceOptions {
  plumbing: Plumbing;
  pool: SlotPool;
  /** Undefined: systemd makes scopes. */
  cgroups: Cgroups | undefined;
  log: Pick<Logger, "warn">;
}

export class NamespaceIsolation implements Isolation {
  readonly networkKind = "namespace";
  readonly uid: number;
  private readonly options: NamespaceOptions;
  /** VMs that this process has enclosed, and not released yet, by their name on the host. */
  private readonly enclosed = new Set<string>();

  constructor(options: NamespaceOptions) {
    this.options = options;
    this.uid = options.plumbing.uid;
  }

  async enclose(vm: Vm, { devices, overheadMib = OVERHEAD_MIB }: Needs): Promise<Enclosure> {
    await this.release(vm);
    const { plumbing, pool, cgroups } = this.options;
    const name = hostNameOf(vm);
    this.enclosed.add(name);
    try {
      const slot = await pool.take(name, vm.internetAccess ? plumbing.egress : undefined);
      const memoryMib = vm.memoryMib + overheadMib;
      const limits = { name, memoryMib, vcpu: vm.vcpu };
      const cgroup = await cgroups?.make(limits);
      const hasTun = await mayOpenTun();
      return {
        network: networkOf(slot),
        uid: this.uid,
        wrap: (command, args) =>
          this.wrap(limits, slot, cgroup, hasTun, unprivileged(this.uid, devices, command, args)),
      };
    } catch (error) {
      await this.release(vm);
      throw error;
    }
  }

  async admit(vm: Vm): Promise<void> {
    const { plumbing, pool } = this.options;
    if (vm.internetAccess && plumbing.egress !== undefined)
      await pool.admit(hostNameOf(vm), plumbing.egress);
  }

  async release(vm: Vm): Promise<void> {
    const name = hostNameOf(vm);
    await this.options.pool.drop(name);
    await this.options.cgroups?.remove(name);
    this.enclosed.delete(name);
  }

  async collect(live: Vm[]): Promise<void> {
    const { pool, cgroups, log } = this.options;
    const kept = new Set([...live.map(hostNameOf), ...this.enclosed]);
    await pool.collect(kept);
    for (const name of (await cgroups?.list()) ?? []) {
      if (kept.has(name)) continue;
      // A process that nobody knows is nobody's to end here: it stays, and so does its cgroup.
      await cgroups
        ?.remove(name)
        .catch((err: unknown) => log.warn({ err, name }, "a cgroup of a VM that is gone stays"));
    }
  }

  private wrap(
    vm: Limited,
    slot: NetworkSlot,
    cgroup: string | undefined,
    hasTun: boolean,
    argv: [string, ...string[]],
  ): [string, ...string[]] {
    const networked = [
      "ip",
      "netns",
      "exec",
      slot.namespace,
      ...(hasTun ? [] : ["sh", "-euc", OPEN_TUN, "sh"]),
      ...argv,
    ];
    return cgroup === undefined
      ? inScope(this.options.plumbing.tag, vm, networked)
      : ["sh", "-euc", JOIN, "sh", cgroup, ...networked];
  }
}

function networkOf({ namespace, link }: NetworkSlot): VmNetwork {
  return {
    kind: "namespace",
    name: namespace,
    tap: TAP,
    control: { host: link.guest, port: CONTROL_PORT },
  };
}

/** Debian gives the device to everybody; not every machine does. */
async function mayOpenTun(): Promise<boolean> {
  return ((await stat(TUN_DEVICE)).mode & 0o006) === 0o006;
}
