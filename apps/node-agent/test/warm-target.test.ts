/** Number of VMs that are kept warm. */
import { expect, test } from "vitest";
import {
  NEW_MARGIN_MIB,
  SPARE_MIB,
  warmTargets,
  type WarmKind,
} from "../src/lifecycle/warm-target.ts";

const kind = (imageSha256: string, recentCreates: number, kept = 0): WarmKind => ({
  imageSha256,
  memoryMib: 512,
  kept,
  recentCreates,
});
const ROOM = { max: 4, unreservedMib: 8_192, availableMib: 8_192, isOpen: true };
const targets = (kinds: WarmKind[], room: Partial<typeof ROOM> = {}) =>
  Object.fromEntries(warmTargets(kinds, { ...ROOM, ...room }));

test.each([
  ["nobody has created any", kind("a", 0), {}, 0],
  ["as many as were created lately", kind("a", 3), {}, 3],
  ["no more than is allowed", kind("a", 30), {}, 4],
  ["no more than no sandbox has reserved", kind("a", 4, 2), { unreservedMib: 1_535 }, 2],
  ["nothing where sandboxes have all", kind("a", 4, 2), { unreservedMib: 0 }, 0],
  ["nothing where they have more than all", kind("a", 4, 2), { unreservedMib: -512 }, 0],
  [
    "the machine has room for one more",
    kind("a", 4, 1),
    { availableMib: SPARE_MIB + 512 + NEW_MARGIN_MIB },
    2,
  ],
  ["not for what it takes beside", kind("a", 4, 1), { availableMib: SPARE_MIB + 512 }, 1],
  ["those that are there stay", kind("a", 4, 2), { availableMib: SPARE_MIB }, 2],
  ["and go where the machine has too little", kind("a", 4, 2), { availableMib: 0 }, 1],
  ["none where no sandbox comes", kind("a", 4, 4), { isOpen: false }, 0],
])("%s", (_name, given, room, expected) => {
  expect(targets([given], room)).toEqual({ a: expected });
});

test("the kind that is wanted most comes first", () => {
  const kinds = [kind("a", 1), kind("b", 3), kind("c", 2)];
  expect(targets(kinds)).toEqual({ a: 0, b: 3, c: 1 });
  expect(targets(kinds, { unreservedMib: 1_024 })).toEqual({ a: 0, b: 2, c: 0 });
});
