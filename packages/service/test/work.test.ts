import { expect, test } from "vitest";
import { findFailingRounds, type Reconciler } from "../src/index.ts";

const AT = (second: number) => `2031-01-01T00:00:${String(second).padStart(2, "0")}.000Z`;
const rounds = (given: Record<string, ReturnType<Reconciler["last"]>>) =>
  findFailingRounds(
    new Map(Object.entries(given).map(([name, last]) => [name, { last: () => last }])),
  );

test("rounds that succeed, or have not ended yet, are no problem", () => {
  expect(rounds({ a: { at: AT(1), result: {}, succeededAt: AT(1) }, b: undefined })).toEqual([]);
});

test("rounds that fail alike are one problem, since the first of them failed", () => {
  const away = { at: AT(9), error: "Error: the database is away" };
  const found = rounds({
    a: { ...away, failingSince: AT(5), succeededAt: AT(4) },
    b: { ...away, failingSince: AT(6), succeededAt: AT(3) },
    c: { at: AT(9), error: "Error: something else", failingSince: AT(9) },
  });
  expect(found).toEqual([
    {
      code: "ROUNDS_FAIL",
      subject: "a, b",
      since: AT(5),
      message: expect.stringMatching(
        /^Rounds fail \(a, b\): Error: the database is away\. .* last succeeded at .*03/,
      ),
    },
    {
      code: "ROUNDS_FAIL",
      subject: "c",
      since: AT(9),
      message: expect.stringMatching(/have not succeeded yet/),
    },
  ]);
});
