import { createServer, type Server } from "node:http";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { afterAll, describe, expect, test } from "vitest";
import type { Driver, Vm } from "../src/drivers/driver.ts";
import type { Step } from "../src/lifecycle/context.ts";
import { httpGuest } from "../src/lifecycle/guest.ts";
import { usedOf } from "../src/lifecycle/idle.ts";

const IDLE = { activeRequests: 0, activeExecutions: 0, lastActivityMsAgo: 60_000 };

function step(options: {
  condition?: number;
  dataPlaneIdleMs?: number;
  guest?: () => Promise<unknown>;
}): Step {
  const { condition, dataPlaneIdleMs = 60_000, guest = async () => IDLE } = options;
  const command = condition === undefined ? {} : { onlyIfIdleForMs: condition };
  const deps = { activity: { idleMs: () => dataPlaneIdleMs }, guest: { activity: guest } };
  return {
    deps,
    vm: { sandboxId: "a" },
    record: { agentKey: "k" },
    journal: { command },
  } as unknown as Step;
}

describe("S25, S54: whether a conditional pause may go on", () => {
  test("a pause without the condition asks nobody", async () => {
    const guest = () => Promise.reject(new Error("asked"));
    expect(await usedOf(step({ dataPlaneIdleMs: 0, guest }))).toBeUndefined();
  });

  test("idle on both sides: it may; also when the guest's agent does not know the question", async () => {
    expect(await usedOf(step({ condition: 5_000 }))).toBeUndefined();
    expect(await usedOf(step({ condition: 5_000, guest: async () => undefined }))).toBeUndefined();
  });

  test.each([
    ["a request came in through the host", { dataPlaneIdleMs: 100 }, /used 100 ms ago/],
    [
      "an execution runs",
      { guest: async () => ({ ...IDLE, activeExecutions: 2 }) },
      /2 executions/,
    ],
    [
      "a request is being answered",
      { guest: async () => ({ ...IDLE, activeRequests: 1 }) },
      /1 requests/,
    ],
    [
      "an execution has just ended",
      { guest: async () => ({ ...IDLE, lastActivityMsAgo: 20 }) },
      /20 ms ago/,
    ],
    [
      "the guest is too busy to answer",
      { guest: () => Promise.reject(new Error("timeout")) },
      /timeout/,
    ],
  ])("%s: it may not, and says why", async (_what, options, why) => {
    expect(await usedOf(step({ condition: 5_000, ...options }))).toMatch(why);
  });
});

describe("the question to the guest's agent", () => {
  const servers: Server[] = [];
  afterAll(() =>
    servers.forEach((server) => {
      server.closeAllConnections();
      server.close();
    }),
  );

  async function guestThatAnswers(status: number, body: object) {
    const server = createServer((_incoming, response) =>
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body)),
    );
    servers.push(server);
    await once(server.listen(0, "127.0.0.1"), "listening");
    const { port } = server.address() as AddressInfo;
    return httpGuest({
      guestAddress: async () => ({ kind: "tcp", host: "127.0.0.1", port }),
    } as unknown as Driver);
  }

  /** A guest whose response begins, and does not end. */
  async function guestThatStalls() {
    const server = createServer((_incoming, response) =>
      response.writeHead(200, { "content-length": 100 }).write("{"),
    );
    servers.push(server);
    await once(server.listen(0, "127.0.0.1"), "listening");
    const { port } = server.address() as AddressInfo;
    return httpGuest({
      guestAddress: async () => ({ kind: "tcp", host: "127.0.0.1", port }),
    } as unknown as Driver);
  }

  test(
    "what it answers is read; a 404 is an older agent, which cannot tell; anything else is no answer",
    { timeout: 30_000 },
    async () => {
      const vm = { sandboxId: "a" } as Vm;
      const told = await guestThatAnswers(200, {
        active_requests: 1,
        active_executions: 2,
        open_streams: 3,
        last_activity_ms_ago: 4,
      });
      expect(await told.activity(vm, "k")).toEqual({
        activeRequests: 1,
        activeExecutions: 2,
        lastActivityMsAgo: 4,
      });
      expect(
        await (await guestThatAnswers(404, { message: "no such path" })).activity(vm, "k"),
      ).toBeUndefined();
      const endless = await guestThatAnswers(200, {
        last_activity_ms_ago: 1,
        more: "x".repeat(2 * 1024 * 1024),
      });
      await expect(endless.activity(vm, "k")).rejects.toThrow(/longer than/);
      await expect((await guestThatStalls()).activity(vm, "k")).rejects.toThrow(
        /did not answer \/_torpor\/activity within 5000 ms/,
      );
      await expect(
        (await guestThatAnswers(401, { message: "no" })).activity(vm, "k"),
      ).rejects.toThrow(/401/);
    },
  );
});
