/**
 * The duration of a placement decision, in a fleet at constant load while sandboxes come and go.
 */
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

/** Reserved share of the fleet's memory. */
const LOAD = 0.7;
/**
 * The scheduler reads the hosts again this often: a tenth of a second at 20,000 decisions per
 * second.
 */
const DECISIONS_PER_PICTURE = 2_000;

export interface Speed {
  perSecond: number;
  /** Includes the benchmark's own work between two decisions; meaningful on a busy machine too. */
  perCpuSecond: number;
  p50Us: number;
  p99Us: number;
  worstUs: number;
  /** Processor time, which other load on the machine does not change. */
  p99CpuUs: number;
}

/**
 * The time to build a new view of the fleet is part of the decision that needs the view, and so of
 * all these numbers.
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
  // Runs a tenth of the decisions first, uncounted: the code is compiled in that time.
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
    // A request without a host (few hosts have a GPU) leaves the fleet as full as before.
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

/** Counts the sandbox in the rows, as the database would, and in the view. */
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
 * Half of the requests are resumes. Some creates require labels; some must avoid hosts of other
 * sandboxes with the same key.
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
