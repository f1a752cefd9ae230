/**
 * Numbers on the command line: digits, or a refusal that names the option, before any measurement
 * or API call.
 */
import { createServer } from "node:http";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, test, vi } from "vitest";
import { bench } from "../src/commands/bench.ts";
import { hosts } from "../src/commands/hosts.ts";

const NO_NUMBERS = ["", " ", "1e3", "0x10", "2.5", "-1", "two", "1_000"];
const context = (...args: string[]) => ({ root: "/srv/torpor", args, write: () => {} });

afterEach(() => {
  vi.unstubAllEnvs();
});

describe.each(NO_NUMBERS)("%j", (given) => {
  test.each([
    ["--hosts", "from 10 to 20000"],
    ["--seed", "from 0 to 4294967295"],
  ])("bench %s", async (option, range) => {
    await expect(bench(context("placement", `${option}=${given}`))).rejects.toThrow(
      `${option} must be a number ${range}, not "${given}"`,
    );
  });

  test.each(["--max-parallel", "--max-mib-per-second"])("hosts drain %s", async (option) => {
    await using api = await listen();
    await expect(hosts(context("drain", "host-1", `${option}=${given}`))).rejects.toThrow(
      `${option} must be a whole number, not "${given}"`,
    );
    expect(api.bodies).toEqual([]);
  });
});

test("a drain is asked for with the numbers that were given, and one at a time without", async () => {
  await using api = await listen();
  await hosts(context("drain", "host-1", "--no-wait"));
  await hosts(
    context("drain", "host-1", "--no-wait", "--max-parallel", "16", "--max-mib-per-second=010"),
  );
  expect(api.bodies).toEqual([{ max_parallel: 1 }, { max_parallel: 16, max_mib_per_second: 10 }]);
});

/** An API with one host, set in the environment of the commands. */
async function listen(): Promise<AsyncDisposable & { bodies: unknown[] }> {
  const bodies: unknown[] = [];
  const none = { vcpu: 0, memory_mb: 0 };
  const host = {
    id: "host-1",
    state: "draining",
    region: "here",
    capacity: none,
    used: none,
    sandboxes: {},
    findings: [],
    drain: null,
  };
  const server = createServer((request, response) => {
    void text(request).then((body) => {
      bodies.push(JSON.parse(body));
      response.end(JSON.stringify(host));
    });
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  vi.stubEnv("HOPX_BASE_URL", `http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  vi.stubEnv("HOPX_API_KEY", "key");
  return {
    bodies,
    [Symbol.asyncDispose]: async () => {
      server.close();
      server.closeAllConnections();
      await once(server, "close");
    },
  };
}
