import { EventEmitter } from "node:events";
import { expect, test } from "vitest";
import { UnderWay } from "../src/operations/under-way.ts";

const answer = (state: object = {}) => Object.assign(new EventEmitter(), state) as never;
const close = (one: unknown) => (one as EventEmitter).emit("close");

test("as many at once as the bound says, of each budget; the next is told to wait, until one is answered", () => {
  const underWay = new UnderWay(2);
  const [first, second] = [answer(), answer()];
  underWay.begin("api-key 1", first);
  underWay.begin("api-key 1", second);
  expect(() => underWay.begin("api-key 1", answer())).toThrow(/2 requests are under way already/);
  underWay.begin("api-key 2", answer());
  close(first);
  underWay.begin("api-key 1", answer());
  expect(() => underWay.begin("api-key 1", answer())).toThrow(
    expect.objectContaining({ status: 429, headers: { "retry-after": "1" } }),
  );
});

test("one whose client left before it was counted is not; 0 is no bound", () => {
  const underWay = new UnderWay(1);
  for (const gone of [{ closed: true }, { destroyed: true }])
    underWay.begin("api-key 1", answer(gone));
  underWay.begin("api-key 1", answer());
  const unbounded = new UnderWay(0);
  for (let at = 0; at < 10; at += 1) unbounded.begin("api-key 1", answer());
});
