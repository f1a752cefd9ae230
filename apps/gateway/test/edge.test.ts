import type { SandboxView } from "@torpor/db";
import { describe, expect, test } from "vitest";
import { doorOf } from "../src/edge/domain.ts";
import { forwardedHeaders, upstreamHeaders } from "../src/edge/headers.ts";
import { offeredPorts } from "../src/edge/preview-ports.ts";
import { type WakeDependencies, Waker } from "../src/edge/wake.ts";
import { ApiError } from "../src/errors.ts";

const ID = "1763309903rt5vs4lm";
const door = (host?: string) =>
  doorOf({ headers: host === undefined ? {} : { host } }, { domain: "example.com", publicOrigin: { scheme: "https", port: 443 } });

describe("host names", () => {
  test.each([
    [`3000-${ID}.eu-1.vms.example.com`, 3000],
    [`7777-${ID}.eu-1.vms.example.com:8443`, 7777],
    [`80-${ID}.EU-1.VMS.Example.com`, 80],
  ])("%s leads to port %d", (host, port) => {
    expect(door(host)).toMatchObject({ port });
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
    const refused = door(host);
    expect(refused).toBeInstanceOf(ApiError);
    expect(refused).toMatchObject({ status: 404, message: expect.stringContaining("{port}-{sandbox id}.{region}.vms.example.com") });
  });
});

describe("preview ports", () => {
  test("never the agent's, nor the one that agents are served on, nor privileged ones but 80 and 443", () => {
    expect(offeredPorts([22, 80, 443, 1023, 1024, 3000, 7777, 8080, 3000], 8080)).toEqual([80, 443, 1024, 3000]);
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
    expect(upstreamHeaders(raw, { "x-torpor-port": "3000" }, false)).toEqual(["Host", "x", "x-torpor-port", "3000"]);
    expect(upstreamHeaders(raw, {}, true)).toEqual(["Host", "x", "Authorization", "Bearer own", "X-API-Key", "k"]);
  });

  test("a client's claim of who it is does not replace what the edge sees", () => {
    const incoming = {
      headers: { host: "h", "x-forwarded-for": "1.2.3.4", "x-forwarded-host": "evil" },
      socket: { remoteAddress: "5.6.7.8" },
    };
    expect(forwardedHeaders(incoming as never, { scheme: "http" })).toEqual({
      "x-forwarded-for": "1.2.3.4, 5.6.7.8",
      "x-forwarded-host": "h",
      "x-forwarded-proto": "http",
    });
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

  test("64 wait for one sandbox, the next is turned away, and there is room again when they have ended", async () => {
    let answer: (error: Error) => void = () => {};
    const database = new Promise<never>((_, reject) => (answer = reject));
    const limits = { autoResumeWaitMs: 1_000 };
    const waker = new Waker({ db: { transaction: () => database }, limits } as unknown as WakeDependencies);
    const wake = () =>
      waker.wake(
        { name: "n", port: 7777, scheme: "http", find: async () => undefined },
        view("paused", "paused"),
        new AbortController().signal,
      );
    const held = Array.from({ length: 64 }, wake);
    await expect(wake()).rejects.toMatchObject({ status: 429, code: "RATE_LIMIT_EXCEEDED", headers: { "retry-after": "1" } });
    answer(new Error("gone"));
    expect((await Promise.allSettled(held)).map(({ status }) => status)).toEqual(Array.from({ length: 64 }, () => "rejected"));
    await expect(wake()).rejects.toThrow("gone");
  });
});
