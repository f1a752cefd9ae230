/** A host's health report about its part of the work. */
import { expect, test } from "vitest";
import { type Backlog, HostWork } from "../src/control/work.ts";

function host() {
  const at = { nowMs: Date.UTC(2031, 0, 1) };
  const backlog: Backlog = { count: 0, oldestAtMs: undefined };
  const work = new HostWork(
    () => backlog,
    () => at.nowMs,
  );
  return { at, backlog, work };
}

test("commands that cannot be read are a problem after 10 s, since the first time, until they can", () => {
  const { at, work } = host();
  work.noteCommands(false);
  at.nowMs += 9_999;
  work.noteCommands(false);
  expect(work.problems()).toEqual([]);
  at.nowMs += 1;
  expect(work.problems()).toMatchObject([
    { code: "COMMANDS_UNREADABLE", since: "2031-01-01T00:00:00.000Z" },
  ]);
  work.noteCommands(true);
  expect(work.problems()).toEqual([]);
});

test("observations that wait for 10 s are one", () => {
  const { at, backlog, work } = host();
  Object.assign(backlog, { count: 3, oldestAtMs: at.nowMs });
  at.nowMs += 9_999;
  expect(work.problems()).toEqual([]);
  at.nowMs += 1;
  expect(work.problems()).toMatchObject([
    { code: "OBSERVATIONS_WAIT", message: expect.stringMatching(/^3 observations/) },
  ]);
});
