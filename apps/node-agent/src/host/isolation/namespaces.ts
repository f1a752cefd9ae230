/**
 * Isolation by namespaces: each VM has its own network namespace and cgroup, and a user without
 * rights.
 *
 * A VMM enters its cgroup first, so that it never runs outside of it; then the namespace; last the
 * user, which may do neither.
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

/**
 * Default memory of a VMM besides the guest's: itself, and the page cache of its reads and writes.
 */
const OVERHEAD_MIB = 256;
const TUN_DEVICE = "/dev/net/tun";
/** Joins the cgroup $1, then becomes the rest by exec. */
const JOIN = 'echo 0 > "$1/cgroup.procs"; shift; exec "$@"';
/**
 * Lets any user open the tun device, only in the mount namespace that `ip netns exec` makes. The
 * kernel still checks the owner of a tap.
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
      // An unknown process is not ended here: it stays, and so does its cgroup.
      await cgroups
        ?.remove(name)
        .catch((err: unknown) =>
          log.warn({ err, name }, "cgroup of an ended VM could not be removed"),
        );
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

/** True if any user may open the device, as on Debian. */
async function mayOpenTun(): Promise<boolean> {
  return ((await stat(TUN_DEVICE)).mode & 0o006) === 0o006;
}
