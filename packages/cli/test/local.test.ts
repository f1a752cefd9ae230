/**
 * The options of `./torpor up` from the command line and the environment, and the fleet that is
 * planned from them.
 */
import { planServices, type FleetOptions, type Ports } from "@torpor/fleet";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { fleetOptions } from "../src/local.ts";

const PORTS = ["TORPOR_GATEWAY_PORT", "TORPOR_EDGE_PORT"] as const;
const ROOT = "/srv/torpor";
const options = (...args: string[]) => fleetOptions({ root: ROOT, args, write: () => {} });

// The environment of the tests may have these variables.
beforeEach(() => {
  for (const name of PORTS) vi.stubEnv(name, undefined);
});
afterEach(() => {
  vi.unstubAllEnvs();
});

test("without a word: two hosts and schedulers, one gateway and NATS server, on the known ports, in this checkout", () => {
  expect(options()).toEqual({
    root: ROOT,
    dir: `${ROOT}/.torpor/fleet`,
    imagesDir: `${ROOT}/.torpor/images`,
    hosts: 2,
    gateways: 1,
    schedulers: 2,
    natsServers: 1,
    guestHosts: ["lab-1"],
    serverAddresses: ["192.168.76.2"],
    driver: "qemu",
    gatewayPort: 8787,
    edgePort: 7777,
    isDurable: true,
    hostEnv: {},
  });
});

test("each flag changes its own part alone, up to the largest fleet", () => {
  const flags = [
    "--hosts",
    "16",
    "--schedulers=3",
    "--gateways",
    "4",
    "--nats",
    "5",
    "--driver",
    "simulated",
    "--keep",
  ];
  const changed = { hosts: 16, schedulers: 3, gateways: 4, natsServers: 5, driver: "simulated" };
  expect(options(...flags)).toEqual({ ...options(), ...changed });
  vi.stubEnv("TORPOR_GATEWAY_PORT", "0");
  vi.stubEnv("TORPOR_EDGE_PORT", "65535");
  expect(options()).toMatchObject({ gatewayPort: 0, edgePort: 65_535 });
});

describe("what cannot be is refused by the name of the flag, before anything starts", () => {
  const counts = ["--hosts", "--schedulers", "--gateways"].flatMap((flag) =>
    ["0", "17", "2.5", "two", "", " ", "1e1", "0x2", "-1"].map((text) => [flag, text] as const),
  );
  const nats = ["0", "2", "4", "7", "3.0", "", "three"].map((text) => ["--nats", text] as const);
  const drivers = ["cloud-hypervisor", "QEMU", ""].map((text) => ["--driver", text] as const);

  test.each([...counts, ...nats, ...drivers])("%s=%s", (flag, text) => {
    const named = new RegExp(`^${flag} must be .*, not "${text}"$`);
    expect(() => options(`${flag}=${text}`)).toThrow(named);
  });

  test.each([
    [["--host", "3"], "--host"],
    [["three"], "three"],
    [["--hosts"], "--hosts"],
    [["--hosts", "--nats"], "--hosts"],
    [["--keep=yes"], "--keep"],
  ])("%j", (args, named) => {
    expect(() => options(...args)).toThrow(named);
  });

  test.each(["65536", "-1", "http", "80.5", "", "1e3"])("a port that is none: %j", (text) => {
    for (const name of PORTS) {
      vi.stubEnv(name, text);
      expect(() => options()).toThrow(`${name} must be a port number, not "${text}"`);
      vi.stubEnv(name, undefined);
    }
  });
});

describe("the fleet that is planned", () => {
  const URLS = {
    databaseUrls: { gateway: "postgres://g@db", scheduler: "postgres://s@db" },
    natsUrl: "nats://bus",
  };
  const planned = (given: FleetOptions) => {
    const times = (count: number, from: number) =>
      Array.from({ length: count }, (_, at) => from + at);
    const ports: Ports = {
      postgres: 1,
      nats: [],
      api: given.gatewayPort,
      edge: given.edgePort,
      gateways: times(given.gateways, 100),
      schedulers: times(given.schedulers, 200),
      hosts: times(given.hosts, 300).map((health) => ({ health, dataPlane: health + 100 })),
    };
    return planServices(given, ports, URLS);
  };

  test("is one process for each that was asked for, and a fence beside each host", () => {
    const names = planned(options("--hosts", "3", "--schedulers", "1", "--gateways", "2")).map(
      ({ name }) => name,
    );
    expect(names).toEqual([
      "scheduler-1",
      "host-1-fence",
      "host-1",
      "host-2-fence",
      "host-2",
      "host-3-fence",
      "host-3",
      "gateway-1",
      "gateway-2",
    ]);
  });

  test("gateways share the ports that clients know, and each thing else is a process's own", () => {
    const fleet = planned(options("--gateways", "3", "--driver", "simulated"));
    const gateways = fleet.filter(({ role }) => role === "gateway");
    for (const { env, address } of gateways) {
      expect(env).toMatchObject({
        LISTEN_PORT: "8787",
        LISTEN_REUSE_PORT: "true",
        EDGE_PORT: "7777",
      });
      expect(address).toBe("127.0.0.1:8787");
    }
    for (const own of ["HEALTH_PORT", "DATA_PLANE_PORT", "HOST_ID"]) {
      const values = fleet.flatMap(({ env }) => env[own] ?? []);
      expect(new Set(values).size, own).toBe(values.length);
    }
    for (const field of ["name", "log"] as const)
      expect(new Set(fleet.map((component) => component[field])).size, field).toBe(fleet.length);
    expect(fleet.flatMap(({ env }) => env["DRIVER"] ?? [])).toEqual(["simulated", "simulated"]);
    const [alone] = planned(options()).filter(({ role }) => role === "gateway");
    expect(alone?.env["LISTEN_REUSE_PORT"]).toBe("false");
  });
});
