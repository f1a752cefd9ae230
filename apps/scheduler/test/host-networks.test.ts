import { describe, expect, test } from "vitest";
import { configFrom } from "../src/config.ts";
import { HostNetworks } from "../src/hosts/host-networks.ts";

const networks = new HostNetworks("10.0.0.0/8,192.168.7.0/24, fd00::/8");

describe("a host", () => {
  test.each(["http://10.1.2.3:9401", "http://192.168.7.9", "http://[fd00::5]:9401"])(
    "may be at %s",
    (url) => expect(networks.problemOf(url)).toBeUndefined(),
  );

  test.each([
    "http://11.0.0.1:9401",
    "http://127.0.0.1:5432",
    "http://169.254.169.254",
    "http://192.168.8.9",
    "http://[fe80::5]:9401",
    "http://[::1]:9401",
  ])("may not be at %s", (url) =>
    expect(networks.problemOf(url)).toMatch(/hosts may be in 10\.0\.0\.0\/8/),
  );

  test.each(["http://host.example.com:9401", "http://10.0.0.5.example.com"])(
    "may not be at a name, which may lead anywhere: %s",
    (url) => expect(networks.problemOf(url)).toMatch(/not a name/),
  );

  test("may be anywhere where nothing is said", () => {
    expect(new HostNetworks("").problemOf("http://host.example.com")).toBeUndefined();
  });
});

test.each(["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/8;11.0.0.0/8"])(
  "HOST_NETWORKS %j is refused by its name",
  (text) => {
    const env = { DATABASE_URL: "postgres://x", NATS_URL: "nats://x", HOST_NETWORKS: text };
    expect(() => configFrom(env)).toThrow(/HOST_NETWORKS/);
  },
);
