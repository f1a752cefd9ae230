/** Generated fleets and sandboxes: the same for the same seed. */
import { type HostId, unverifiedHostId } from "@torpor/contracts";
import type { Amounts, PlacementHost, PlacementRequest } from "@torpor/placement";

const IMAGE_SHA256 = "a".repeat(64);
export const FINGERPRINT = "bench/1";

/** Random numbers from 0 to 1 (mulberry32). */
export type Random = () => number;

export function randomFrom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function oneOf<T>(random: Random, all: readonly [T, ...T[]] | T[]): T {
  const chosen = all[Math.floor(random() * all.length)];
  if (chosen === undefined) throw new Error("there is nothing to choose from");
  return chosen;
}

/** 64 threads at an overcommit of 3, and 256 GiB. */
export const HOST_SIZE: Amounts = { vcpu: 192, memoryMib: 262_144, diskMib: 4_194_304 };

const STARTS_AT_ONCE = 64;

/** Empty hosts of one size; `isVaried`: in two zones, some with a GPU, one in fifty cordoned. */
export function makeHosts(count: number, isVaried: boolean): PlacementHost[] {
  return Array.from({ length: count }, (_, at) => ({
    id: unverifiedHostId(`host-${String(at).padStart(5, "0")}`),
    state: isVaried && at % 50 === 49 ? "cordoned" : "ready",
    region: "local",
    dataPlaneUrl: "",
    ticketKey: null,
    commandKey: null,
    labels: isVaried
      ? { zone: at % 2 === 0 ? "a" : "b", ...(at % 10 === 0 ? { gpu: "yes" } : {}) }
      : {},
    restorableFingerprints: [FINGERPRINT],
    hasFence: true,
    imageSha256s: [IMAGE_SHA256],
    vcpuCapacity: HOST_SIZE.vcpu,
    memoryMibCapacity: HOST_SIZE.memoryMib,
    diskMibCapacity: HOST_SIZE.diskMib,
    vcpuUsed: 0,
    memoryMibUsed: 0,
    diskMibUsed: 0,
    startsAtOnce: STARTS_AT_ONCE,
    startsUnderWay: 0,
    registeredAt: new Date(0),
  }));
}

type Size = [weight: number, vcpu: number, memoryMib: number];

/**
 * Sizes of sandboxes by workload. `mixed` needs both resources in about the ratio of the hosts,
 * which is the hardest to pack; the others need more of one.
 */
const SIZES = {
  mixed: [
    [30, 1, 512],
    [25, 1, 1024],
    [20, 2, 2048],
    [10, 2, 4096],
    [6, 4, 8192],
    [2, 8, 16_384],
    [4, 2, 8192],
    [3, 4, 2048],
  ],
  opposed: [
    [40, 4, 1024],
    [35, 1, 4096],
    [15, 8, 2048],
    [10, 1, 12_288],
  ],
  memory: [
    [50, 1, 2048],
    [30, 2, 8192],
    [20, 4, 32_768],
  ],
  large: [
    [40, 8, 8192],
    [40, 12, 16_384],
    [20, 16, 32_768],
  ],
} as const satisfies Record<string, readonly Size[]>;
export type WorkloadName = keyof typeof SIZES;
export const WORKLOADS = Object.keys(SIZES) as WorkloadName[];

export function makeSizes(random: Random, name: WorkloadName): () => Amounts {
  const sizes: readonly Size[] = SIZES[name];
  const total = sizes.reduce((sum, [weight]) => sum + weight, 0);
  return () => {
    let left = random() * total;
    const [, vcpu, memoryMib] = sizes.find(([weight]) => (left -= weight) < 0) ?? [0, 1, 512];
    return { vcpu, memoryMib, diskMib: 4096 };
  };
}

export type RequestedSandbox = Omit<PlacementRequest, keyof Amounts | "imageSha256" | "region">;

export const requestFor = (
  { vcpu, memoryMib, diskMib }: Amounts,
  asked: RequestedSandbox = {},
): PlacementRequest => ({
  vcpu,
  memoryMib,
  diskMib,
  imageSha256: IMAGE_SHA256,
  region: "local",
  ...asked,
});

export interface Placed extends Amounts {
  hostId: HostId;
}

/** Removes a random element; the order of the others may change. */
export function takeAny<T>(random: Random, from: T[]): T {
  const at = Math.floor(random() * from.length);
  const [chosen, last] = [from[at], from.pop()];
  if (chosen === undefined || last === undefined) throw new Error("there is nothing to take");
  if (at < from.length) from[at] = last;
  return chosen;
}
