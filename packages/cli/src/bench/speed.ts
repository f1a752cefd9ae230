/** How long a decision takes, on a fleet that stays at its load while sandboxes come and go. */
import {
  type Amounts,
  FleetView,
  place,
  type PlacementHost,
  type PlacementPolicy,
} from "@torpor/placement";
import {
  type RequestedSandbox,
  FINGERPRINT,
  HOST_SIZE,
  makeHosts,
  makeSizes,
  oneOf,
  type Placed,
  type Random,
  randomFrom,
  requestFor,
  takeAny,
} from "./workload.ts";

/** Of the fleet's memory. */
const LOAD = 0.7;
/**
 * So often the scheduler reads the hosts anew: a tenth of a second at 20,000 decisions per second.
 */
const DECISIONS_PER_PICTURE = 2_000;

export interface Speed {
  perSecond: number;
  /**
   * With what the benchmark itself does between two decisions; tells on a machine that is busy with
   * other things.
   */
  perCpuSecond: number;
  p50Us: number;
  p99Us: number;
  worstUs: number;
  /** Processor time, which is the same on a machine that others use too. */
  p99CpuUs: number;
}

/**
 * What a new picture of the fleet costs is in the time of the decision that needs it, and so in all
 * of these numbers.
 */
export function measureSpeed(
  policy: PlacementPolicy,
  options: { hosts: number; decisions: number; seed: number },
): Speed {
  const { decisions, seed } = options;
  const random = randomFrom(seed);
  const sizes = makeSizes(random, "mixed");
  const hosts = makeHosts(options.hosts, true);
  const sandboxes = fill(hosts, sizes, policy);
  let fleet = new FleetView(hosts);
  const tookUs = new Float64Array(decisions);
  const cpuUs = new Float64Array(decisions);
  let cpu = process.cpuUsage();
  // A tenth more, before any counts: until then the code is not compiled.
  for (let decision = -decisions / 10; decision < decisions; decision += 1) {
    if (decision === 0) cpu = process.cpuUsage();
    const gone = takeAny(random, sandboxes);
    hold(hosts, fleet, gone, -1);
    const request = requestFor(sizes(), whatElse(random, hosts));
    const before = process.cpuUsage();
    const startedAt = performance.now();
    if (decision % DECISIONS_PER_PICTURE === 0) fleet = new FleetView(hosts);
    const placement = place(fleet, request, policy);
    if (decision >= 0) {
      tookUs[decision] = (performance.now() - startedAt) * 1000;
      cpuUs[decision] = sum(process.cpuUsage(before));
    }
    // One that finds no host (those with a GPU are few) leaves the fleet as full as it was.
    const placed = placement.kind === "rejected" ? gone : { ...request, hostId: placement.host.id };
    hold(hosts, fleet, placed, 1);
    sandboxes.push(placed);
  }
  const perCpuSecond = (decisions / sum(process.cpuUsage(cpu))) * 1e6;
  const at = quantiles(tookUs);
  const totalUs = tookUs.reduce((total, us) => total + us, 0);
  const perSecond = (decisions / totalUs) * 1e6;
  return {
    perSecond,
    perCpuSecond,
    p50Us: at(0.5),
    p99Us: at(0.99),
    worstUs: at(1),
    p99CpuUs: quantiles(cpuUs)(0.99),
  };
}

const sum = ({ user, system }: NodeJS.CpuUsage) => user + system;

function quantiles(values: Float64Array): (share: number) => number {
  const sorted = values.toSorted();
  return (share) => sorted[Math.floor(share * (sorted.length - 1))] ?? 0;
}

function fill(hosts: PlacementHost[], sizes: () => Amounts, policy: PlacementPolicy): Placed[] {
  const fleet = new FleetView(hosts);
  const sandboxes: Placed[] = [];
  for (let leftMib = LOAD * hosts.length * HOST_SIZE.memoryMib; leftMib > 0;) {
    const size = sizes();
    const placement = place(fleet, requestFor(size), policy);
    if (placement.kind === "rejected")
      throw new Error(`the fleet of the benchmark is full: ${placement.message}`);
    const placed = { ...size, hostId: placement.host.id };
    hold(hosts, fleet, placed, 1);
    sandboxes.push(placed);
    leftMib -= size.memoryMib;
  }
  return sandboxes;
}

/** Counts it in the rows, as the database would, and in the picture. */
function hold(
  hosts: PlacementHost[],
  fleet: FleetView,
  { hostId, vcpu, memoryMib, diskMib }: Placed,
  sign: 1 | -1,
): void {
  const host = hosts[fleet.indexOf(hostId)];
  if (host === undefined) throw new Error(`there is no host ${hostId}`);
  host.vcpuUsed += sign * vcpu;
  host.memoryMibUsed += sign * memoryMib;
  host.diskMibUsed += sign * diskMib;
  fleet.hold(hostId, { vcpu: sign * vcpu, memoryMib: sign * memoryMib, diskMib: sign * diskMib });
}

/**
 * Every second one is a resume. Of the creates some ask for labels, some may not be near others of
 * their key.
 */
function whatElse(random: Random, hosts: PlacementHost[]): RequestedSandbox {
  const dice = random();
  if (dice < 0.5) return { localHostId: oneOf(random, hosts).id, driverFingerprint: FINGERPRINT };
  if (dice < 0.6) return { labels: { zone: random() < 0.5 ? "a" : "b" } };
  if (dice < 0.65) return { labels: { gpu: "yes" } };
  if (dice < 0.7)
    return {
      occupiedHostIds: [oneOf(random, hosts).id, oneOf(random, hosts).id, oneOf(random, hosts).id],
    };
  return {};
}
