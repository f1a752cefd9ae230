/** Fleets of real virtual machines, for measurements: in directories of their own, gone with them. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { Fleet, type FleetOptions } from "@torpor/fleet";

export interface BenchFleet {
  fleet: Fleet;
  close(): Promise<void>;
}

export async function startBenchFleet(
  root: string,
  name: string,
  given: Pick<FleetOptions, "imagesDir"> & Partial<FleetOptions>,
  signal: AbortSignal,
): Promise<BenchFleet> {
  const dir = join(root, ".torpor/bench", name);
  await rm(dir, { recursive: true, force: true });
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
  return {
    fleet,
    close: async () => {
      await fleet.down({ isDiscarded: true });
      await rm(dir, { recursive: true, force: true });
    },
  };
}
