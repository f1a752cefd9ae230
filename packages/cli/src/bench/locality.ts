/**
 * The share of resumes that run on the host with the snapshot, in a fleet at constant load: three
 * times as many sandboxes as run at once are paused and resumed at random.
 */
import type { HostId } from "@torpor/contracts";
import { type Amounts, FleetView, place, type PlacementPolicy } from "@torpor/placement";
import {
  FINGERPRINT,
  HOST_SIZE,
  makeHosts,
  makeSizes,
  type Placed,
  randomFrom,
  requestFor,
  takeAny,
} from "./workload.ts";

export interface Locality {
  /** Share of the resumes on the host with the snapshot. */
  local: number;
  /** Resumes for which no host had room. */
  refused: number;
}

/** Reserved share of the fleet's memory. */
const LOAD = 0.7;
const SANDBOXES_PER_RUNNING = 3;
/** Share of the iterations that delete one sandbox and create another instead of a resume. */
const CHURN = 0.05;

export function measureLocality(
  policy: PlacementPolicy,
  options: { hosts: number; resumes: number; seed: number },
): Locality {
  const random = randomFrom(options.seed);
  const sizes = makeSizes(random, "mixed");
  const town = new Town(options.hosts, policy);
  const fullMib = LOAD * options.hosts * HOST_SIZE.memoryMib;
  const create = () => {
    if (town.run(sizes()) === "refused") throw new Error("the fleet of the benchmark is full");
    while (town.runningMib > fullMib) town.pause(takeAny(random, town.running));
  };
  while (town.allMib < SANDBOXES_PER_RUNNING * fullMib) create();
  let local = 0;
  let refused = 0;
  for (let resumes = 0; resumes < options.resumes;) {
    const sandbox = takeAny(random, town.paused);
    if (random() < CHURN) {
      town.remove(sandbox);
      create();
      continue;
    }
    resumes += 1;
    const where = town.run(sandbox, sandbox.hostId);
    if (where === "local") local += 1;
    if (where === "refused") {
      refused += 1;
      town.paused.push(sandbox);
    }
    while (town.runningMib > fullMib) town.pause(takeAny(random, town.running));
  }
  return { local: local / options.resumes, refused };
}

/**
 * The fleet and its sandboxes: a running one reserves all its resources, a paused one only its
 * disk.
 */
class Town {
  readonly running: Placed[] = [];
  readonly paused: Placed[] = [];
  runningMib = 0;
  allMib = 0;
  private readonly fleet: FleetView;
  private readonly policy: PlacementPolicy;

  constructor(hosts: number, policy: PlacementPolicy) {
    this.fleet = new FleetView(makeHosts(hosts, false));
    this.policy = policy;
  }

  /** Places a new sandbox, or one that was paused on `origin`. */
  run(size: Amounts, origin?: HostId): "local" | "elsewhere" | "refused" {
    const { vcpu, memoryMib, diskMib } = size;
    const asked =
      origin === undefined ? {} : { localHostId: origin, driverFingerprint: FINGERPRINT };
    const placement = place(this.fleet, requestFor(size, asked), this.policy);
    if (placement.kind === "rejected") return "refused";
    const hostId = placement.host.id;
    if (origin === undefined) this.allMib += memoryMib;
    else this.fleet.hold(origin, { vcpu: 0, memoryMib: 0, diskMib: -diskMib });
    this.fleet.hold(hostId, { vcpu, memoryMib, diskMib });
    this.running.push({ vcpu, memoryMib, diskMib, hostId });
    this.runningMib += memoryMib;
    return hostId === origin ? "local" : "elsewhere";
  }

  pause(sandbox: Placed): void {
    this.fleet.hold(sandbox.hostId, {
      vcpu: -sandbox.vcpu,
      memoryMib: -sandbox.memoryMib,
      diskMib: 0,
    });
    this.runningMib -= sandbox.memoryMib;
    this.paused.push(sandbox);
  }

  /** Deletes a paused sandbox. */
  remove(sandbox: Placed): void {
    this.fleet.hold(sandbox.hostId, { vcpu: 0, memoryMib: 0, diskMib: -sandbox.diskMib });
    this.allMib -= sandbox.memoryMib;
  }
}
