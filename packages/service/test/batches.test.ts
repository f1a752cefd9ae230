import { expect, test } from "vitest";
import { Batches } from "../src/index.ts";

/** A run that ends when it is told to. */
function held() {
  const batches: number[][] = [];
  const ends: (() => void)[] = [];
  const run = async (items: number[]) => {
    batches.push(items);
    await new Promise<void>((resolve) => ends.push(resolve));
    return items.map((item) => item * 10);
  };
  return { batches, run, end: () => ends.shift()?.() };
}

/** Until what was resolved has had its effects. */
const settled = () => new Promise((resolve) => setImmediate(resolve));

test("one goes at once, and what comes meanwhile goes together, in its order and no more than may", async () => {
  const { batches, run, end } = held();
  const work = new Batches({ run, maxItems: 3 });
  const results = [1, 2, 3, 4, 5].map((item) => work.add(item));
  expect(batches).toEqual([[1]]);
  for (let batch = 0; batch < 3; batch += 1) {
    end();
    await settled();
  }
  expect(batches).toEqual([[1], [2, 3, 4], [5]]);
  expect(await Promise.all(results)).toEqual([10, 20, 30, 40, 50]);
});

test("with a time to gather, what comes in it goes along with the first", async () => {
  const batches: number[][] = [];
  const run = async (items: number[]) => {
    batches.push(items);
    return items;
  };
  const work = new Batches({ run, maxItems: 10, gatherMs: 20 });
  await Promise.all([1, 2, 3].map((item) => work.add(item)));
  await work.add(4);
  expect(batches).toEqual([[1, 2, 3], [4]]);
});

test("an item that fails makes no other of its batch fail, nor the next one", async () => {
  const run = async (items: number[]) => {
    if (items.includes(13)) throw new Error("13 is refused");
    return items;
  };
  const work = new Batches({ run, maxItems: 10, gatherMs: 1 });
  const results = await Promise.allSettled([12, 13, 14].map((item) => work.add(item)));
  expect(results).toMatchObject([
    { status: "fulfilled", value: 12 },
    { status: "rejected", reason: { message: "13 is refused" } },
    { status: "fulfilled", value: 14 },
  ]);
  expect(await work.add(15)).toBe(15);
});

test("a run that does not answer for each of its items fails them", async () => {
  const work = new Batches({ run: async () => [], maxItems: 10 });
  await expect(work.add(1)).rejects.toThrow("a batch of 1 has 0 results");
});
