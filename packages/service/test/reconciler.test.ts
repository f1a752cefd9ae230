import { pino } from "pino";
import { describe, expect, test } from "vitest";
import { startReconciler } from "../src/index.ts";

const log = pino({ level: "silent" });
const NEVER_MS = 3_600_000;

/** A reconciler whose rounds the test ends, one by one. */
function stepped() {
  const controller = new AbortController();
  const waiting: ((result: Error | undefined) => void)[] = [];
  let begun = 0;
  let running = 0;
  let most = 0;
  const reconciler = startReconciler({
    name: "test",
    everyMs: NEVER_MS,
    signal: controller.signal,
    log,
    run: async () => {
      begun += 1;
      running += 1;
      most = Math.max(most, running);
      const failure = await new Promise<Error | undefined>((resolve) => waiting.push(resolve));
      running -= 1;
      if (failure !== undefined) throw failure;
      return { round: begun };
    },
  });
  const end = async (failure?: Error) => {
    waiting.shift()?.(failure);
    await new Promise((resolve) => setImmediate(resolve));
  };
  return { controller, reconciler, end, begun: () => begun, most: () => most };
}

describe("a reconciler", () => {
  test("runs at once, then idles until it is kicked", async () => {
    const { controller, reconciler, end, begun } = stepped();
    expect(begun()).toBe(1);
    await end();
    expect([begun(), reconciler.last()?.result]).toEqual([1, { round: 1 }]);
    reconciler.kick();
    await new Promise((resolve) => setImmediate(resolve));
    expect(begun()).toBe(2);
    controller.abort();
    await end();
    await reconciler.ended;
  });

  test("runs one round at a time; kicks during a round make one more follow it", async () => {
    const { controller, reconciler, end, begun, most } = stepped();
    for (let kicks = 0; kicks < 5; kicks += 1) reconciler.kick();
    await end();
    expect(begun()).toBe(2);
    await end();
    expect([begun(), most()]).toEqual([2, 1]);
    controller.abort();
    await reconciler.ended;
  });

  test("goes on after a round that failed, and shows its error until the next", async () => {
    const { controller, reconciler, end } = stepped();
    await end(new Error("the database is away"));
    expect(reconciler.last()?.error).toContain("the database is away");
    const { failingSince } = reconciler.last() ?? {};
    expect(failingSince).toBeDefined();
    reconciler.kick();
    await new Promise((resolve) => setImmediate(resolve));
    await end(new Error("select * from secrets", { cause: new Error("it is still away") }));
    expect(reconciler.last()).toMatchObject({ failingSince, error: "Error: it is still away" });
    reconciler.kick();
    await new Promise((resolve) => setImmediate(resolve));
    await end();
    const last = reconciler.last();
    expect(last).toEqual({ at: last?.at, result: { round: 3 }, succeededAt: last?.at });
    controller.abort();
    await reconciler.ended;
  });

  test("ends when its signal aborts: out of its idling at once, out of a round when that has ended", async () => {
    const idle = stepped();
    await idle.end();
    idle.controller.abort();
    await idle.reconciler.ended;
    const busy = stepped();
    busy.controller.abort();
    busy.reconciler.kick();
    await busy.end();
    await busy.reconciler.ended;
    expect([idle.begun(), busy.begun()]).toEqual([1, 1]);
  });

  test("logs the same failure once, and again when it comes back after a success", async () => {
    const lines: string[] = [];
    const counting = pino({ level: "error" }, { write: (line: string) => void lines.push(line) });
    const controller = new AbortController();
    const outcomes = ["away", "away", "away", "well", "away"];
    let rounds = 0;
    const reconciler = startReconciler({
      name: "test",
      everyMs: 0,
      signal: controller.signal,
      log: counting,
      run: async () => {
        const outcome = outcomes[rounds];
        rounds += 1;
        if (rounds > outcomes.length) controller.abort();
        if (outcome === "away") throw new Error(outcome);
        return {};
      },
    });
    await reconciler.ended;
    expect(lines).toHaveLength(2);
  });
});

test("a round that never ends is given up, said, and followed by the next", async () => {
  const controller = new AbortController();
  let begun = 0;
  const goesOn = new Promise<void>((resolve) => {
    startReconciler({
      name: "stuck",
      everyMs: 1,
      limitMs: 20,
      signal: controller.signal,
      log,
      run: async () => {
        begun += 1;
        if (begun === 2) resolve();
        return await new Promise(() => {});
      },
    });
  });
  await goesOn;
  controller.abort();
  expect(begun).toBe(2);
});
