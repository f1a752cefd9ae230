/**
 * Places over a view of the fleet that is at most 0.1 s old, so that a burst does not read every
 * host for every sandbox.
 *
 * The view decides nothing for good: a choice is claimed in a transaction that checks it against
 * the current rows, and a choice that no longer holds is made again from new rows. When no host is
 * found, the next round of `drive-waiting` tries again.
 */
import type { HostId } from "@torpor/contracts";
import { type Database, type PlacementHost, readPlacementHosts } from "@torpor/db";
import {
  DEFAULT_PLACEMENT_POLICY,
  FleetView,
  place,
  type Placement,
  type PlacementPolicy,
  type PlacementRequest,
  rank,
  type Ranking,
} from "@torpor/placement";

const MAX_AGE_MS = 100;

export class Placer {
  readonly policy: PlacementPolicy;
  private readonly db: Database;
  private readonly maxAgeMs: number;
  private fleetView: { fleet: FleetView; readAtMs: number } | undefined;
  private reading: Promise<FleetView> | undefined;
  private timesForgotten = 0;

  constructor(
    db: Database,
    options: { policy?: PlacementPolicy | undefined; maxAgeMs?: number } = {},
  ) {
    this.db = db;
    this.policy = options.policy ?? DEFAULT_PLACEMENT_POLICY;
    this.maxAgeMs = options.maxAgeMs ?? MAX_AGE_MS;
  }

  /** Chooses a host, and counts the sandbox as there until the hosts are read again. */
  async place(request: PlacementRequest): Promise<Placement> {
    const fleet = await this.current();
    const placement = place(fleet, request, this.policy);
    if (placement.kind === "placed") {
      const { vcpu, memoryMib, diskMib } = request;
      const { id } = placement.host;
      fleet.hold(id, { vcpu, memoryMib, diskMib: id === request.localHostId ? 0 : diskMib });
      fleet.holdStart(id);
    }
    return placement;
  }

  /** Hosts that `place` would choose from. Nothing is counted. */
  async rank(request: PlacementRequest, limit: number): Promise<Ranking> {
    return rank(await this.current(), request, this.policy, limit);
  }

  /** Reason why no host could take it now; undefined: one could. Nothing is counted. */
  async checkPlaceable(request: PlacementRequest): Promise<string | undefined> {
    return (await this.rank(request, 1)).message;
  }

  /** The host, if its lease has not ended. */
  async find(hostId: HostId | null): Promise<PlacementHost | undefined> {
    if (hostId === null) return undefined;
    const fleet = await this.current();
    return fleet.hosts[fleet.indexOf(hostId)];
  }

  /** Makes the next decision read new rows: a choice could not be claimed. */
  invalidate(): void {
    this.timesForgotten += 1;
    this.fleetView = undefined;
    this.reading = undefined;
  }

  private async current(): Promise<FleetView> {
    if (this.fleetView !== undefined && performance.now() - this.fleetView.readAtMs < this.maxAgeMs)
      return this.fleetView.fleet;
    return await (this.reading ??= this.read(this.timesForgotten));
  }

  private async read(timesForgotten: number): Promise<FleetView> {
    const readAtMs = performance.now();
    try {
      const { leased, lost } = await readPlacementHosts(this.db);
      const fleet = new FleetView(leased, lost);
      if (timesForgotten === this.timesForgotten) this.fleetView = { fleet, readAtMs };
      return fleet;
    } finally {
      if (timesForgotten === this.timesForgotten) this.reading = undefined;
    }
  }
}
