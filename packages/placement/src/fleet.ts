/**
 * The hosts in a form that placement can read thousands of times a second: columns of numbers. What
 * does not differ from request to request is judged once per kind of request.
 *
 * A fleet is made from rows and discarded with them. `hold` counts what was placed since, so that
 * one read of the hosts serves many decisions.
 */
import type { PlacementHost } from "@torpor/db";

/** Reasons in the order in which a host is judged: it is counted under the first that holds. */
export const REJECTIONS = [
  "host_lost",
  "other_host",
  "host_not_ready",
  "no_fence",
  "region",
  "labels",
  "image_missing",
  "fingerprint",
  "anti_affinity",
  "vcpu",
  "memory",
  "disk",
] as const;
export type Rejection = (typeof REJECTIONS)[number];

export interface Amounts {
  vcpu: number;
  memoryMib: number;
  diskMib: number;
}

/** Requirements for a host, regardless of its free capacity. */
export interface Traits {
  imageSha256: string;
  region: string;
  /** Labels of which the host must have all. */
  labels?: Readonly<Record<string, string>> | undefined;
  /**
   * The sandbox must not continue to run when its host has lost the control plane. Only a fence
   * ensures that.
   */
  needsFence?: boolean | undefined;
  /**
   * Fingerprint of the VMM's version and the CPU. A restore needs a host that can restore snapshots
   * of this fingerprint.
   */
  driverFingerprint?: string | undefined;
}

/** Kinds of request that are cached. When there are more, the whole cache is cleared. */
const MAX_KINDS = 256;

/** Columns, one entry per host. */
class Column {
  readonly free: Float64Array;
  /** 1 / capacity. */
  readonly perUnit: Float64Array;

  constructor(capacities: number[], used: number[]) {
    this.free = Float64Array.from(capacities, (capacity, at) => capacity - (used[at] ?? 0));
    this.perUnit = Float64Array.from(capacities, (capacity) => (capacity > 0 ? 1 / capacity : 0));
  }
}

export class FleetView {
  readonly hosts: readonly PlacementHost[];
  /** Lost hosts. `hosts` does not include them. */
  readonly lostHosts: number;
  readonly vcpu: Column;
  readonly memory: Column;
  readonly disk: Column;
  /** Cost of a host's start queue: what a new start's wait takes off the host's score. */
  readonly waitCosts: Float64Array;
  /** Scores of the newest decision; the next decision overwrites them. */
  readonly scores: Float64Array;
  private readonly startsUnderWay: Float64Array;
  private readonly indexes: ReadonlyMap<PlacementHost["id"], number>;
  private readonly verdicts = new Map<string, Uint8Array>();

  constructor(hosts: readonly PlacementHost[], lostHosts = 0) {
    this.hosts = hosts;
    this.lostHosts = lostHosts;
    this.vcpu = new Column(
      hosts.map((host) => host.vcpuCapacity),
      hosts.map((host) => host.vcpuUsed),
    );
    this.memory = new Column(
      hosts.map((host) => host.memoryMibCapacity),
      hosts.map((host) => host.memoryMibUsed),
    );
    this.disk = new Column(
      hosts.map((host) => host.diskMibCapacity),
      hosts.map((host) => host.diskMibUsed),
    );
    this.startsUnderWay = Float64Array.from(hosts, ({ startsUnderWay }) => startsUnderWay);
    this.waitCosts = Float64Array.from(hosts, (host) =>
      waitCost(host.startsUnderWay, host.startsAtOnce),
    );
    this.scores = new Float64Array(hosts.length);
    this.indexes = new Map(hosts.map(({ id }, at) => [id, at]));
  }

  /** Index of the host; -1 if the fleet does not include the host. */
  indexOf(hostId: PlacementHost["id"] | undefined): number {
    return hostId === undefined ? -1 : (this.indexes.get(hostId) ?? -1);
  }

  /** Counts what a host holds beyond its row. Negative amounts give back. */
  hold(hostId: PlacementHost["id"], { vcpu, memoryMib, diskMib }: Amounts): void {
    const at = this.indexOf(hostId);
    if (at === -1) return;
    this.vcpu.free[at] = (this.vcpu.free[at] ?? 0) - vcpu;
    this.memory.free[at] = (this.memory.free[at] ?? 0) - memoryMib;
    this.disk.free[at] = (this.disk.free[at] ?? 0) - diskMib;
  }

  /** Counts a start that a host has to do beyond those in its row. */
  holdStart(hostId: PlacementHost["id"]): void {
    const at = this.indexOf(hostId);
    const host = this.hosts[at];
    if (host === undefined) return;
    const startsUnderWay = (this.startsUnderWay[at] ?? 0) + 1;
    this.startsUnderWay[at] = startsUnderWay;
    this.waitCosts[at] = waitCost(startsUnderWay, host.startsAtOnce);
  }

  /** Verdict per host: 0, or one more than the index of its rejection. */
  judgeTraits(traits: Traits): Uint8Array {
    const kind = kindOf(traits);
    const known = this.verdicts.get(kind);
    if (known !== undefined) return known;
    const judged = Uint8Array.from(this.hosts, (host) => verdictOf(rejectTraits(host, traits)));
    if (this.verdicts.size >= MAX_KINDS) this.verdicts.clear();
    this.verdicts.set(kind, judged);
    return judged;
  }
}

/**
 * Less than a whole host. Scores go from 0 to 1, so what a host has free still counts when starts
 * wait on all hosts.
 */
const MAX_WAIT_COST = 0.75;
/** Rounds of earlier starts at which a wait costs half of `MAX_WAIT_COST`. */
const HALF_COST_ROUNDS = 2;

/**
 * Zero while a start slot is free. Then the cost rises with each round of earlier starts, from a
 * quarter for the first.
 */
function waitCost(startsUnderWay: number, startsAtOnce: number | null): number {
  if (startsAtOnce === null) return 0;
  const rounds = Math.max(0, startsUnderWay + 1 - startsAtOnce) / startsAtOnce;
  return (MAX_WAIT_COST * rounds) / (rounds + HALF_COST_ROUNDS);
}

export function verdictOf(rejection: Rejection | undefined): number {
  return rejection === undefined ? 0 : REJECTIONS.indexOf(rejection) + 1;
}

/** Key that is equal for requests which any host judges alike. */
function kindOf({
  imageSha256,
  region,
  labels = {},
  needsFence = false,
  driverFingerprint = "",
}: Traits): string {
  const names = Object.keys(labels);
  const sorted = names.length < 2 ? names : names.toSorted();
  let kind = `${imageSha256}\n${region}\n${needsFence}\n${driverFingerprint}`;
  for (const name of sorted) kind += `\n${name}=${labels[name]}`;
  return kind;
}

/**
 * Reason against a host, regardless of its free capacity. `isLocal`: the host holds the sandbox.
 * `isPinned`: the sandbox is pinned to the host (judge.ts).
 */
export function rejectTraits(
  host: PlacementHost,
  traits: Traits,
  { isLocal, isPinned }: { isLocal: boolean; isPinned: boolean } = {
    isLocal: false,
    isPinned: false,
  },
): Rejection | undefined {
  // A cordoned host takes nothing new, but a sandbox that can run nowhere else continues there.
  if (host.state !== "ready" && !isPinned) return "host_not_ready";
  if (traits.needsFence === true && !host.hasFence) return "no_fence";
  if (host.region !== traits.region) return "region";
  for (const [name, value] of Object.entries(traits.labels ?? {}))
    if (host.labels[name] !== value) return "labels";
  if (!host.imageSha256s.includes(traits.imageSha256)) return "image_missing";
  if (!isLocal && !restores(host, traits)) return "fingerprint";
  return undefined;
}

export function restores(
  host: PlacementHost,
  { driverFingerprint }: Pick<Traits, "driverFingerprint">,
): boolean {
  return driverFingerprint === undefined || host.restorableFingerprints.includes(driverFingerprint);
}
