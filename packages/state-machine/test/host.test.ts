import fc from "fast-check";
import { expect, test } from "vitest";
import {
  allowedHostRequests,
  HOST_EVENTS,
  HOST_STATES,
  type HostEvent,
  type HostStanding,
  transitionHost,
} from "../src/index.ts";

const anyEvent = fc.constantFrom(...HOST_EVENTS);

function run(from: HostStanding, events: readonly HostEvent[]): HostStanding {
  return events.reduce<HostStanding>((standing, event) => {
    const result = transitionHost(standing, event);
    return result.kind === "move" ? { state: result.to, before: result.before } : standing;
  }, from);
}
const ready: HostStanding = { state: "ready", before: null };
/** Any standing that a host can reach. */
const anyStanding = fc.array(anyEvent, { maxLength: 20 }).map((events) => run(ready, events));

test("an event that comes again moves nothing, but for what is lost and found", () => {
  fc.assert(
    fc.property(anyStanding, anyEvent, (standing, event) => {
      const once = run(standing, [event]);
      expect(run(once, [event])).toEqual(once);
    }),
  );
});

test("only a lost host remembers what it was, and it was neither lost nor retired", () => {
  fc.assert(
    fc.property(anyStanding, ({ state, before }) => {
      expect(before !== null).toBe(state === "lost");
      expect(["lost", "retired"]).not.toContain(before);
    }),
  );
});

test("H2: a lost host comes back as what it was", () => {
  fc.assert(
    fc.property(anyStanding, (standing) => {
      if (standing.state === "lost" || standing.state === "retired") return;
      expect(run(standing, ["lease_ended", "renew"])).toEqual(standing);
      expect(run(standing, ["lease_ended", "register"])).toEqual(standing);
    }),
  );
});

test("H2: what an operator decides about a lost host holds from its return", () => {
  expect(run(ready, ["lease_ended", "cordon", "renew"]).state).toBe("cordoned");
  expect(run(ready, ["cordon", "lease_ended", "uncordon", "renew"]).state).toBe("ready");
  expect(run(ready, ["drain", "lease_ended", "abort_drain", "renew"]).state).toBe("cordoned");
  expect(run(ready, ["drain", "lease_ended", "uncordon", "renew"]).state).toBe("draining");
});

test("H3: nothing brings a retired host back", () => {
  fc.assert(
    fc.property(fc.array(anyEvent), (events) => {
      expect(run(ready, ["cordon", "retire", ...events]).state).toBe("retired");
    }),
  );
});

test("H4: a drain ends in cordoned, however it ends", () => {
  for (const end of ["drained", "abort_drain"] as const)
    expect(run(ready, ["drain", end]).state).toBe("cordoned");
});

test("what is refused is not among what is allowed", () => {
  expect(allowedHostRequests(ready)).toEqual(["cordon", "uncordon", "drain"]);
  expect(allowedHostRequests({ state: "draining", before: null })).toEqual([
    "cordon",
    "drain",
    "abort_drain",
  ]);
  expect(allowedHostRequests({ state: "lost", before: "ready" })).toEqual([
    "cordon",
    "uncordon",
    "retire",
  ]);
  for (const state of HOST_STATES)
    expect(
      allowedHostRequests({ state, before: state === "lost" ? "ready" : null }),
    ).not.toHaveLength(5);
});
