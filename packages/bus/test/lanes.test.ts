import { expect, test } from "vitest";
import { Lanes } from "../src/lanes.ts";

/** Work that the test ends. */
function scripted(limits: ConstructorParameters<typeof Lanes>[0]) {
  const lanes = new Lanes(limits);
  const began: string[] = [];
  const ends = new Map<string, () => void>();
  const add = (lane: string, name: string) =>
    lanes.add(lane, async () => {
      began.push(name);
      await new Promise<void>((resolve) => ends.set(name, resolve));
    });
  const end = async (...names: string[]) => {
    for (const name of names) ends.get(name)?.();
    await new Promise((resolve) => setImmediate(resolve));
  };
  return { lanes, began, add, end };
}

test("one sender's work waits for its own alone, and takes no more than its share", async () => {
  const { began, add, end } = scripted({ atOnce: 4, atOncePerLane: 2, waiting: 10 });
  for (let at = 1; at <= 5; at += 1) add("a", `a${at}`);
  add("b", "b1");
  expect(began).toEqual(["a1", "a2", "b1"]);
  await end("a2");
  expect(began).toEqual(["a1", "a2", "b1", "a3"]);
});

test("lanes take turns when all places are taken", async () => {
  const { began, add, end } = scripted({ atOnce: 1, atOncePerLane: 1, waiting: 10 });
  for (const name of ["a1", "a2", "a3"]) add("a", name);
  for (const name of ["b1", "b2"]) add("b", name);
  for (const name of ["a1", "b1", "a2", "b2"]) await end(name);
  expect(began).toEqual(["a1", "b1", "a2", "b2", "a3"]);
});

test("what is too much is refused, and there is room again when some has ended", async () => {
  const { lanes, add, end } = scripted({ atOnce: 1, atOncePerLane: 1, waiting: 2 });
  expect([add("a", "a1"), add("a", "a2"), add("a", "a3"), add("a", "a4")]).toEqual([
    true,
    true,
    true,
    false,
  ]);
  expect(add("b", "b1")).toBe(true);
  await end("a1");
  expect(add("a", "a5"), "the other's turn").toBe(false);
  await end("b1");
  expect(add("a", "a5")).toBe(true);
  const ended = lanes.ended();
  for (const name of ["a2", "a3", "a5"]) await end(name);
  await ended;
});
