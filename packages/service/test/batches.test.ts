import { AsyncLocalStorage } from "node:async_hooks";
import { expect, test } from "vitest";
import { Batches, gatherAfter } from "../src/batches.ts";

/** Batches whose end the test decides. */
function heldBatches(maxItems = 64, maxWaiting = 10_000) {
  const begun: { items: number[]; end: () => void; fail: (error: Error) => void }[] = [];
  const batches = new Batches<number, string>({
    maxItems,
    maxWaiting,
    run: (items) =>
      new Promise((resolve, reject) => {
        begun.push({ items, end: () => resolve(items.map(String)), fail: reject });
      }),
  });
  /** Resolves when the next batch has begun. */
  const turn = async () => {
    for (let times = 0; times < 2; times += 1)
      await new Promise((resolve) => setImmediate(resolve));
  };
  return { begun, batches, turn };
}

test("what comes while a batch is under way is the next one, and each gets its own result", async () => {
  const { begun, batches, turn } = heldBatches();
  const first = batches.add(1);
  await turn();
  const others = [2, 3, 4].map((item) => batches.add(item));
  expect(begun.map(({ items }) => items)).toEqual([[1]]);
  begun[0]?.end();
  expect(await first).toBe("1");
  await turn();
  expect(begun.map(({ items }) => items)).toEqual([[1], [2, 3, 4]]);
  begun[1]?.end();
  expect(await Promise.all(others)).toEqual(["2", "3", "4"]);
  await batches.idle();
});

test("what is added the moment that the last batch ends does not wait for anybody", async () => {
  const batches = new Batches<number, number>({ run: async (items) => items });
  // One after another, in each microtask in which a batch may just have ended.
  for (let depth = 0; depth < 8; depth += 1) {
    const first = batches.add(1);
    for (let step = 0; step < depth; step += 1) await Promise.resolve();
    expect(await batches.add(2)).toBe(2);
    await first;
  }
});

test("a batch has no more than its bound, and what does not fit is in the next", async () => {
  const { begun, batches, turn } = heldBatches(2);
  const all = [1, 2, 3, 4, 5].map((item) => batches.add(item));
  for (let index = 0; index < 3; index += 1) {
    // After several items, the next batch gathers for a moment.
    while (begun.length === index) await turn();
    begun[index]?.end();
  }
  await Promise.all(all);
  expect(begun.map(({ items }) => items)).toEqual([[1, 2], [3, 4], [5]]);
});

test("a batch that fails fails its members, and not those that wait", async () => {
  const { begun, batches, turn } = heldBatches();
  const failed = batches.add(1);
  await turn();
  const waits = batches.add(2);
  begun[0]?.fail(new Error("the database is away"));
  await expect(failed).rejects.toThrow("the database is away");
  await turn();
  begun[1]?.end();
  expect(await waits).toBe("2");
});

test("more than may wait is refused at once", async () => {
  const { begun, batches, turn } = heldBatches(1, 2);
  const first = batches.add(1);
  await turn();
  const waits = [batches.add(2), batches.add(3)];
  await expect(batches.add(4)).rejects.toThrow("2 wait already");
  for (let index = 0; index < 3; index += 1) {
    begun[index]?.end();
    await turn();
  }
  expect(await Promise.all([first, ...waits])).toEqual(["1", "2", "3"]);
});

test("what one turn of the event loop brings is one batch, however its parts are handled", async () => {
  const { begun, batches, turn } = heldBatches();
  const handled = [1, 2, 3].map(async (item) => {
    for (let step = 0; step < item * 3; step += 1) await Promise.resolve();
    return await batches.add(item);
  });
  await turn();
  expect(begun.map(({ items }) => items)).toEqual([[1, 2, 3]]);
  begun[0]?.end();
  await Promise.all(handled);
});

test("in a crowd the next batch waits a little for others, and what comes alone does not", () => {
  expect(gatherAfter(1, 8)).toBe(0);
  expect(gatherAfter(2, 8)).toBe(4);
  expect(gatherAfter(2, 1_000)).toBeLessThan(20);
});

test("with a time to gather, what comes in it goes along with the first", async () => {
  const runs: number[][] = [];
  const run = async (items: number[]) => {
    runs.push(items);
    return items;
  };
  const batches = new Batches({ run, maxItems: 10, gatherMs: 20 });
  await Promise.all([1, 2, 3].map((item) => batches.add(item)));
  await batches.add(4);
  expect(runs).toEqual([[1, 2, 3], [4]]);
});

test("where each is tried alone, one that fails makes no other of its batch fail", async () => {
  const run = async (items: number[]) => {
    if (items.includes(13)) throw new Error("13 is refused");
    return items;
  };
  const batches = new Batches({ run, triesAlone: true });
  const results = await Promise.allSettled([12, 13, 14].map((item) => batches.add(item)));
  expect(results).toMatchObject([
    { status: "fulfilled", value: 12 },
    { status: "rejected", reason: { message: "13 is refused" } },
    { status: "fulfilled", value: 14 },
  ]);
});

test("a run that does not answer for each of its items fails them", async () => {
  const batches = new Batches({ run: async () => [] });
  await expect(batches.add(1)).rejects.toThrow("a batch of 1 has 0 results");
});

test("what has waited for too long is rejected when its turn comes, and the others go on", async () => {
  const { begun, turn } = heldBatches();
  const batches = new Batches<number, string>({
    maxWaitMs: 20,
    run: (items) =>
      new Promise((resolve, reject) => {
        begun.push({ items, end: () => resolve(items.map(String)), fail: reject });
      }),
  });
  const first = batches.add(1);
  await turn();
  const late = batches.add(2);
  const refused = expect(late).rejects.toMatchObject({ code: "ETIMEDOUT" });
  await new Promise((resolve) => setTimeout(resolve, 40));
  const fresh = batches.add(3);
  begun[0]?.end();
  await first;
  await refused;
  await turn();
  begun[1]?.end();
  expect(await fresh).toBe("3");
});

test("a batch is begun as nobody, whoever was first", async () => {
  const who = new AsyncLocalStorage<string>();
  const batches = new Batches({ run: async (items: number[]) => items.map(() => who.getStore()) });
  expect(await who.run("somebody", () => batches.add(1))).toBeUndefined();
});
