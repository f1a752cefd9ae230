/** Conclusions from the numbers of a consumer, from round to round. */
import { expect, test } from "vitest";
import { checkOutbox, checkProgress, follow, type Progress } from "../src/work-watch.ts";

const START_MS = Date.UTC(2031, 0, 1);
type Round = [second: number, waiting: number, unacknowledged: number, ackFloor: number];

/** The problem after the last round. */
function after(durable: string, rounds: Round[]) {
  let progress: Progress | undefined;
  let nowMs = START_MS;
  for (const [second, waiting, unacknowledged, ackFloor] of rounds) {
    nowMs = START_MS + second * 1_000;
    progress = follow(progress, { durable, waiting, unacknowledged, ackFloor }, nowMs);
  }
  if (progress === undefined) throw new Error("there was no round");
  return checkProgress(durable, progress, nowMs);
}
const intents = (...rounds: Round[]) => after("scheduler-intents", rounds)?.code;

test.each<[string, Round[]]>([
  [
    "nothing waits",
    [
      [0, 0, 0, 7],
      [60, 0, 0, 7],
    ],
  ],
  [
    "what waits has come just now",
    [
      [0, 0, 0, 7],
      [60, 5, 0, 7],
      [74, 5, 0, 7],
    ],
  ],
  [
    "all is acknowledged in the end",
    [
      [0, 5, 0, 7],
      [60, 0, 0, 12],
    ],
  ],
  [
    "one stands, and others are acknowledged",
    [
      [0, 9, 1, 7],
      [10, 6, 1, 7],
      [20, 3, 1, 7],
    ],
  ],
  [
    "as many come as are acknowledged",
    [
      [0, 9, 0, 7],
      [10, 9, 0, 8],
      [20, 9, 0, 9],
      [60, 9, 0, 99],
    ],
  ],
  [
    "a burst is worked off",
    [
      [0, 9_000, 0, 1],
      [30, 8_000, 0, 900],
      [60, 7_000, 0, 1_900],
    ],
  ],
])("is no problem: %s", (_, rounds) => {
  expect(intents(...rounds)).toBeUndefined();
});

test("nothing is acknowledged for 15 s although something waits", () => {
  const found = after("scheduler-observations", [
    [0, 0, 0, 7],
    [5, 3, 1, 7],
    [10, 4, 1, 7],
    [20, 4, 1, 7],
  ]);
  expect(found).toMatchObject({
    code: "CONSUMER_STANDS",
    subject: "scheduler-observations",
    since: "2031-01-01T00:00:05.000Z",
    message: expect.stringMatching(/None of 5 messages .* schedulers' logs/),
  });
  expect(intents([0, 0, 4, 7], [15, 0, 4, 7]), "though somebody has them").toBe("CONSUMER_STANDS");
  expect(intents([0, 1, 0, 7], [15, 1, 0, 7], [16, 0, 0, 8]), "and is again").toBeUndefined();
});

test("more and more wait, though some are acknowledged", () => {
  const growing: Round[] = [
    [0, 600, 0, 1],
    [10, 900, 0, 2],
    [20, 1_200, 0, 3],
    [30, 1_500, 0, 4],
  ];
  expect(after("scheduler-intents", growing)).toMatchObject({
    code: "CONSUMER_FALLS_BEHIND",
    since: "2031-01-01T00:00:00.000Z",
    message: expect.stringMatching(/1500 messages .* another scheduler/),
  });
});

test("a host takes no commands", () => {
  expect(
    after("host-eu-7", [
      [0, 1, 0, 0],
      [15, 1, 0, 0],
    ]),
  ).toMatchObject({
    code: "HOST_TAKES_NO_COMMANDS",
    subject: "host-eu-7",
    message: expect.stringMatching(/^Host eu-7 .* none of 1 commands.* restart the agent/),
  });
});

test("the outbox does not empty", () => {
  const backlog = { oldestAt: new Date(START_MS), ageMs: 10_000, count: 1_000, isCounted: false };
  expect(checkOutbox(backlog)).toMatchObject({
    code: "OUTBOX_GROWS",
    since: "2031-01-01T00:00:00.000Z",
    message: expect.stringMatching(/^more than 1000 messages .* NATS/),
  });
  expect(checkOutbox({ ...backlog, ageMs: 9_999 })).toBeUndefined();
});
