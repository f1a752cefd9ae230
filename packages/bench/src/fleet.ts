/** Fleets for measurements: each in its own directory, which is removed with it. */
import { createHash } from "node:crypto";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { Fleet, type FleetOptions, removeFleet } from "@torpor/fleet";
import { tryClaimName } from "@torpor/service";

export interface BenchFleet {
  fleet: Fleet;
  close: () => Promise<void>;
}

export interface BenchPlace {
  /** Directory of the checkout. */
  root: string;
  /** Directory of the fleet: it holds nothing else, and is removed with the fleet. */
  dir: string;
}

export const benchDir = (root: string, name: string) => join(root, ".torpor/bench", name);

/**
 * Ends and removes what an earlier benchmark has left in the directory. Throws a line while that
 * one still runs.
 */
export async function startBenchFleet(
  { root, dir }: BenchPlace,
  given: Pick<FleetOptions, "imagesDir"> & Partial<FleetOptions>,
  signal: AbortSignal,
): Promise<BenchFleet> {
  using held = new DisposableStack();
  held.use(await takePlace(dir));
  await removeFleet(dir);
  const fleet = await Fleet.start(
    {
      root,
      dir,
      hosts: 1,
      gateways: 1,
      schedulers: 1,
      driver: "qemu",
      gatewayPort: 0,
      edgePort: 0,
      isDurable: false,
      hostEnv: {},
      ...given,
    },
    () => {},
    signal,
  );
  const place = held.move();
  return {
    fleet,
    close: async () => {
      await fleet.down({ isDiscarded: true });
      await rm(dir, { recursive: true, force: true });
      place.dispose();
    },
  };
}

/** Claims the directory for this process until the claim is disposed, or the process ends. */
async function takePlace(dir: string): Promise<Disposable> {
  const name = `bench-${createHash("sha256").update(dir).digest("hex")}`;
  const place = await tryClaimName(name);
  if (place === undefined)
    throw new Error(`the same benchmark runs already, in ${dir}: wait for it, or end it`);
  return place;
}
