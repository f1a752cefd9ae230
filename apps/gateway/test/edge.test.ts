import type { SandboxView } from "@torpor/db";
import { describe, expect, test } from "vitest";
import { endpointOf } from "../src/edge/domain.ts";
import { forwardedHeaders, upstreamHeaders } from "../src/edge/headers.ts";
import { offeredPorts } from "../src/edge/preview-ports.ts";
import { type WakeDependencies, Waker } from "../src/edge/wake.ts";
import { ApiError } from "../src/http/errors.ts";
import { createProxies, ownerOfAddress } from "../src/http/proxies.ts";

const ID = "1763309903rt5vs4lm";
const endpoint = (host?: string) =>
  endpointOf(
    { headers: host === undefined ? {} : { host } },
    { domain: "example.com", publicOrigin: { scheme: "https", port: 443 } },
  );

describe("host names", () => {
  test.each([
    [`3000-${ID}.eu-1.vms.example.com`, 3000],
    [`7777-${ID}.eu-1.vms.example.com:8443`, 7777],
    [`80-${ID}.EU-1.VMS.Example.com`, 80],
  ])("%s leads to port %d", (host, port) => {
    expect(endpoint(host)).toMatchObject({ port });
  });

  test.each([
    undefined,
    "",
    "example.com",
    `${ID}.eu-1.vms.example.com`,
    `0-${ID}.eu-1.vms.example.com`,
    `65536-${ID}.eu-1.vms.example.com`,
    `3000-${ID}.vms.example.com`,
    `3000-${ID}.eu-1.vms.example.com.evil.org`,
    `3000-${ID}.eu-1.vmsXexample.com`,
    "3000-short.eu-1.vms.example.com",
  ])("%s leads nowhere, and the answer says how names look", (host) => {
    const refused = endpoint(host);
    expect(refused).toBeInstanceOf(ApiError);
    expect(refused).toMatchObject({
      status: 404,
      message: expect.stringContaining("{port}-{sandbox id}.{region}.vms.example.com"),
    });
  });
});

describe("preview ports", () => {
  test("never the agent's, nor the one that agents are served on, nor privileged ones but 80 and 443", () => {
    expect(offeredPorts([22, 80, 443, 1023, 1024, 3000, 7777, 8080, 3000], 8080)).toEqual([
      80, 443, 1024, 3000,
    ]);
  });

  test("64 at most, whatever a guest claims", () => {
    const claimed = Array.from({ length: 60_000 }, (_, at) => at + 1024);
    expect(offeredPorts(claimed, 7777)).toHaveLength(64);
    expect(offeredPorts([-1, 0, 1.5e9], 7777)).toEqual([]);
  });
});

describe("headers on the way in", () => {
  const raw = [
    "Host",
    "x",
    "Authorization",
    "Bearer own",
    "X-API-Key",
    "k",
    "X-Torpor-Port",
    "1",
    "X-Torpor-Control",
    "ports",
    "Connection",
    "close",
  ];

  test("credentials end at the edge unless they are the application's own; the host's headers are the edge's alone", () => {
    expect(upstreamHeaders(raw, { "x-torpor-port": "3000" }, false)).toEqual([
      "Host",
      "x",
      "x-torpor-port",
      "3000",
    ]);
    expect(upstreamHeaders(raw, {}, true)).toEqual([
      "Host",
      "x",
      "Authorization",
      "Bearer own",
      "X-API-Key",
      "k",
    ]);
  });

  test("what is said of a client is dropped, whoever says it", () => {
    const said = [
      "X-Forwarded-For",
      "1",
      "X-FORWARDED-PREFIX",
      "/",
      "Forwarded",
      "for=1",
      "X-Real-IP",
      "1",
      "Via",
      "p",
    ];
    expect(upstreamHeaders(said, { "x-forwarded-for": "2" }, true)).toEqual([
      "Via",
      "p",
      "x-forwarded-for",
      "2",
    ]);
  });

  const headers = {
    host: "h",
    "x-forwarded-for": "1.2.3.4, 10.1.1.1",
    "x-forwarded-host": "evil",
    "x-forwarded-proto": "https",
  };
  const told = (remoteAddress: string, scheme: "http" | "https" = "http") =>
    forwardedHeaders(createProxies("10.0.0.0/8"), { headers, socket: { remoteAddress } } as never, {
      scheme,
    });

  test("a client's claim of who it is does not count", () => {
    expect(told("5.6.7.8")).toEqual({
      client: { "x-forwarded-for": "5.6.7.8", "x-real-ip": "5.6.7.8" },
      asked: { "x-forwarded-host": "h", "x-forwarded-proto": "http" },
    });
    expect(told("5.6.7.8", "https").asked).toMatchObject({ "x-forwarded-proto": "https" });
  });

  test("that of a trusted proxy does, as far as it goes through such alone", () => {
    expect(told("::ffff:10.0.0.7")).toEqual({
      client: { "x-forwarded-for": "1.2.3.4, 10.1.1.1, ::ffff:10.0.0.7", "x-real-ip": "1.2.3.4" },
      asked: { "x-forwarded-host": "h", "x-forwarded-proto": "https" },
    });
    const lied = { ...headers, "x-forwarded-for": "10.9.9.9, 1.2.3.4" };
    const incoming = { headers: lied, socket: { remoteAddress: "10.0.0.7" } } as never;
    expect(createProxies("10.0.0.0/8").clientOf(incoming)).toBe("1.2.3.4");
  });

  test.each(["10.0.0.0/33", "proxy.example", "10.0.0.0/8,"])("TRUST_PROXY=%s", (networks) => {
    if (networks.endsWith(",")) expect(createProxies(networks).trusts("10.1.2.3")).toBe(true);
    else expect(() => createProxies(networks)).toThrow(/TRUST_PROXY must be addresses or networks/);
  });

  test.each([
    ["127.64.1.2", "127.0.0.1", true],
    ["::ffff:127.0.0.1", "127.0.0.1", true],
    ["10.0.0.1", "::ffff:10.0.0.1", true],
    ["10.0.0.1", "10.0.0.2", false],
    ["2001:db8:1:2::3", "2001:db8:1:2:3::4", true],
    ["2001:db8:1:2::3", "2001:db8:1:3::3", false],
  ])("%s and %s are one owner's: %s", (one, other, same) => {
    expect(ownerOfAddress(one) === ownerOfAddress(other)).toBe(same);
    // Link-local addresses come with the name of an interface.
    for (const zone of ["%eth0.100", "%br-abc"])
      expect(ownerOfAddress(`fe80::1${zone}`)).toBe(ownerOfAddress("fe80::2"));
  });
});

describe("auto-resume", () => {
  const view = (state: string, settledState: string, autoResume = true) =>
    ({ sandbox: { id: ID, state, settledState, autoResume } }) as SandboxView;

  test.each([
    ["paused", "paused", true],
    ["pausing", "running", true],
    ["resuming", "paused", true],
    ["running", "running", false],
    ["stopped", "stopped", false],
    ["starting", "stopped", false],
    ["creating", "creating", false],
    ["error", "error", false],
  ])("traffic to a sandbox that is %s (settled: %s): %s", (state, settled, wakes) => {
    const waker = new Waker({} as WakeDependencies);
    expect(waker.mayWake(view(state, settled))).toBe(wakes);
    expect(waker.mayWake(view(state, settled, false))).toBe(false);
  });

  test("WK2: 64 wait for one sandbox, the next is turned away, and there is room again when they have ended", async () => {
    let answer: (error: Error) => void = () => {};
    const database = new Promise<never>((_, reject) => (answer = reject));
    // The waker awaits it a tick later, when it may have been rejected already.
    database.catch(() => {});
    const limits = { autoResumeWaitMs: 1_000 };
    const waker = new Waker({
      db: { execute: () => database },
      limits,
    } as unknown as WakeDependencies);
    const wake = () =>
      waker.wake(
        { name: "n", port: 7777, scheme: "http", find: async () => undefined },
        view("paused", "paused"),
        new AbortController().signal,
      );
    const held = Array.from({ length: 64 }, wake);
    await expect(wake()).rejects.toMatchObject({
      status: 429,
      code: "RATE_LIMIT_EXCEEDED",
      headers: { "retry-after": "1" },
    });
    answer(new Error("gone"));
    expect((await Promise.allSettled(held)).map(({ status }) => status)).toEqual(
      Array.from({ length: 64 }, () => "rejected"),
    );
    await expect(wake()).rejects.toThrow("gone");
  });
});
