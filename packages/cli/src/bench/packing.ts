/**
 * The number of hosts for a workload that arrives sandbox by sandbox, compared with the minimum if
 * all of it were known beforehand.
 */
import { type Amounts, FleetView, place, type PlacementPolicy } from "@torpor/placement";
import {
  HOST_SIZE,
  makeHosts,
  makeSizes,
  randomFrom,
  requestFor,
  type WorkloadName,
} from "./workload.ts";

export interface Packing {
  /** Hosts with at least one sandbox. */
  used: number;
  /**
   * Lower bound of any packing: the total demand for the scarcest resource, divided by a host's
   * capacity of it.
   */
  bound: number;
  ratio: number;
  /** Used share of the scarcest resource when a sandbox finds no host for the first time. */
  filled: number;
}

/** Hosts are counted at this fill level, far from both ends of the fleet. */
const COUNTED_AT = 0.8;

/** Places sandboxes until one finds no host; none leaves. */
export function measurePacking(
  policy: PlacementPolicy,
  workload: WorkloadName,
  options: { hosts: number; seed: number },
): Packing {
  const sizes = makeSizes(randomFrom(options.seed), workload);
  const fleet = new FleetView(makeHosts(options.hosts, false));
  const used = new Set<string>();
  const sum: Amounts = { vcpu: 0, memoryMib: 0, diskMib: 0 };
  const needed = () =>
    Math.max(
      sum.vcpu / HOST_SIZE.vcpu,
      sum.memoryMib / HOST_SIZE.memoryMib,
      sum.diskMib / HOST_SIZE.diskMib,
    );
  let counted: Pick<Packing, "used" | "bound"> | undefined;
  for (;;) {
    const size = sizes();
    const placement = place(fleet, requestFor(size), policy);
    if (placement.kind === "rejected") break;
    fleet.hold(placement.host.id, size);
    used.add(placement.host.id);
    for (const name of ["vcpu", "memoryMib", "diskMib"] as const) sum[name] += size[name];
    if (counted === undefined && needed() >= COUNTED_AT * options.hosts)
      counted = { used: used.size, bound: Math.ceil(needed()) };
  }
  const { used: hosts, bound } = counted ?? { used: used.size, bound: Math.ceil(needed()) };
  return { used: hosts, bound, ratio: hosts / bound, filled: needed() / options.hosts };
}
