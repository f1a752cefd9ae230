/** Where the hosts of a local fleet keep snapshots. */
import { afterEach, expect, test, vi } from "vitest";
import { type FleetOptions, planServices, type Ports } from "../src/index.ts";

const OPTIONS: FleetOptions = {
  root: "/srv/torpor",
  dir: "/srv/fleet",
  imagesDir: "/srv/images",
  hosts: 1,
  gateways: 1,
  schedulers: 1,
  driver: "simulated",
  gatewayPort: 1,
  edgePort: 2,
  isDurable: false,
  hostEnv: {},
};
const PORTS: Ports = { postgres: 3, nats: [], api: 1, edge: 2, gateways: [4], schedulers: [5], hosts: [{ health: 6, dataPlane: 7 }] };

const storeOf = (given: Partial<FleetOptions> = {}) =>
  planServices({ ...OPTIONS, ...given }, PORTS, { databaseUrl: "postgres://db", natsUrl: "nats://bus" }).find(
    ({ role }) => role === "node-agent",
  )?.env["SNAPSHOT_STORE"];

afterEach(() => {
  vi.unstubAllEnvs();
});

test("a directory of the fleet, else what the environment names, else what is asked for of these hosts", () => {
  vi.stubEnv("SNAPSHOT_STORE", undefined);
  expect(storeOf()).toBe("file");
  vi.stubEnv("SNAPSHOT_STORE", "s3");
  expect(storeOf()).toBe("s3");
  expect(storeOf({ hostEnv: { SNAPSHOT_STORE: "none" } })).toBe("none");
});
