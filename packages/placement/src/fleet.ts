/**
 * The hosts as placement looks at them: thousands of times a second, so in columns of numbers, and
 * with what does not change from request to request judged once per kind of request.
 *
 * A fleet is made from rows and thrown away with them. `hold` counts what was placed since, so that
 * one picture of the hosts serves many decisions.
 */
import type { PlacementHost } from "@torpor/db";

/** In the order in which a host is judged: it is counted under the first that holds. */
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

/** What a host has to be and to have, whatever is free there. */
export interface Traits {
  imageSha256: string;
  region: string;
  /** All of them. */
  labels?: Readonly<Record<string, string>> | undefined;
  /**
   * It must not run on when its host has lost the control plane: only where a fence sees to that.
   */
  needsFence?: boolean | undefined;
  /**
   * A restore needs a host that can restore snapshots of this fingerprint: of its VMM's version, on
   * its CPU.
   */
  driverFingerprint?: string | undefined;
}

/** Kinds of request that are remembered; more are forgotten together. */
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
  /** Not among them, and counted beside them. */
  readonly lostHosts: number;
  readonly vcpu: Column;
  readonly memory: Column;
  readonly disk: Column;
  /** What a start's wait for those before it costs a host's score. */
  readonly waitCosts: Float64Array;
  /** Of the newest decision; overwritten by the next. */
  readonly scores: Float64Array;
  private readonly startsUnderWay: Float64Array;
  private readonly indexes: ReadonlyMap<string, number>;
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

  /** -1: it is not among them. */
  indexOf(hostId: string | undefined): number {
    return hostId === undefined ? -1 : (this.indexes.get(hostId) ?? -1);
  }

  /** Counts what a host holds more than its row says; negative amounts: less. */
  hold(hostId: string, { vcpu, memoryMib, diskMib }: Amounts): void {
    const at = this.indexOf(hostId);
    if (at === -1) return;
    this.vcpu.free[at] = (this.vcpu.free[at] ?? 0) - vcpu;
    this.memory.free[at] = (this.memory.free[at] ?? 0) - memoryMib;
    this.disk.free[at] = (this.disk.free[at] ?? 0) - diskMib;
  }

  /** Counts a start that a host has to do beside those that its row says. */
  holdStart(hostId: string): void {
    const at = this.indexOf(hostId);
    const host = this.hosts[at];
    if (host === undefined) return;
    const startsUnderWay = (this.startsUnderWay[at] ?? 0) + 1;
    this.startsUnderWay[at] = startsUnderWay;
    this.waitCosts[at] = waitCost(startsUnderWay, host.startsAtOnce);
  }

  /** Per host: 0, or one more than the index of its rejection. */
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
 * Less than a whole host: where scores go from 0 to 1, what a host has free still counts when all
 * of them keep starts waiting.
 */
const MAX_WAIT_COST = 0.75;
/** Rounds of starts before it at which a wait costs half of that. */
const HALF_COST_ROUNDS = 2;

/**
 * Nothing while a slot is free for it; then more with each round of starts that is before it, a
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

/** The same for requests that any host judges alike. */
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
 * What speaks against a host, whatever is free there. `isLocal`, `isPinned`: it is the one that
 * holds the sandbox, or that it is pinned to (judge.ts).
 */
export function rejectTraits(
  host: PlacementHost,
  traits: Traits,
  { isLocal, isPinned }: { isLocal: boolean; isPinned: boolean } = {
    isLocal: false,
    isPinned: false,
  },
): Rejection | undefined {
  // A cordoned host takes nothing new, but what can run nowhere else may go on there.
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
