/**
 * The snapshot store of the hosts of a local fleet, and the number of concurrent starts per host.
 */
import { availableParallelism } from "node:os";
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
const PORTS: Ports = {
  postgres: 3,
  nats: [],
  api: 1,
  edge: 2,
  gateways: [4],
  schedulers: [5],
  hosts: [{ health: 6, dataPlane: 7 }],
};

const hostEnv = (given: Partial<FleetOptions>) =>
  planServices({ ...OPTIONS, ...given }, PORTS, {
    databaseUrls: { gateway: "postgres://gateway@db", scheduler: "postgres://scheduler@db" },
    natsUrl: "nats://bus",
  }).find(({ role }) => role === "node-agent")?.env;
const storeOf = (given: Partial<FleetOptions> = {}) => hostEnv(given)?.["SNAPSHOT_STORE"];

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

test("hosts with emulated machines share the processors, unless it is said what each starts at once", () => {
  const startsOf = (given: Partial<FleetOptions>) => hostEnv(given)?.["STARTS_AT_ONCE"];
  vi.stubEnv("STARTS_AT_ONCE", undefined);
  expect(startsOf({ driver: "qemu" })).toBe(String(availableParallelism()));
  expect(startsOf({ driver: "qemu", hosts: 10_000 })).toBe("1");
  expect(startsOf({ driver: "simulated" })).toBeUndefined();
  vi.stubEnv("STARTS_AT_ONCE", "3");
  expect(startsOf({ driver: "qemu" })).toBe("3");
});
