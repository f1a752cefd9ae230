import { expect, test } from "vitest";
import { adviceOn, type ComponentStatus } from "../src/commands/status.ts";

const component = (
  name: string,
  role: string,
  rest: Partial<ComponentStatus>,
): ComponentStatus => ({
  name,
  role,
  pid: 1,
  address: "-",
  health: "healthy",
  ...rest,
});
const WELL = component("gateway-1", "gateway", {});

test("a fleet that is healthy needs no advice", () => {
  expect(adviceOn([WELL])).toEqual([]);
});

test("what does not run is named with the command that starts it, and so are the hosts whose virtual machines are not seen", () => {
  const down = [
    component("nats-2", "nats", { health: "down" }),
    component("host-1", "node-agent", { health: "down" }),
    component("lab-1", "lab", { health: "down" }),
  ];
  expect(adviceOn([WELL, ...down])).toEqual([
    "Not running: nats-2, host-1. ./torpor up starts what does not run.",
    "Not running: lab-1. ./torpor lab up starts it.",
    "Virtual machines not shown, as their agents do not answer (they may run): host-1. ./torpor hosts counts them.",
    "Logs: .torpor/fleet/logs",
  ]);
});

test("what is unhealthy says why", () => {
  const unhealthy = component("scheduler-1", "scheduler", {
    health: "unhealthy",
    reason: "no database",
  });
  expect(adviceOn([unhealthy])).toEqual([
    "scheduler-1 is unhealthy: no database. ./torpor restart scheduler-1 restarts it.",
    "Logs: .torpor/fleet/logs",
  ]);
});

test("work that stands is told once, with who says so and since when", () => {
  const problem = {
    code: "OUTBOX_GROWS",
    subject: "outbox",
    since: "2031-01-01T00:00:00.000Z",
    message: "3 messages wait: look.",
  };
  const other = { ...problem, message: "4 messages wait: look." };
  expect(
    adviceOn([
      component("scheduler-1", "scheduler", { problems: [problem] }),
      component("scheduler-2", "scheduler", { problems: [other] }),
    ]),
  ).toEqual([
    "scheduler-1, scheduler-2: since 2031-01-01T00:00:00.000Z: 3 messages wait: look.",
    "Logs: .torpor/fleet/logs",
  ]);
});
