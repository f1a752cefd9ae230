import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  allowedRequests,
  isStable,
  OPERATION_TARGET,
  OPERATION_TRANSITIONAL,
  SANDBOX_EVENTS,
  SANDBOX_FACTS,
  SANDBOX_REQUESTS,
  SANDBOX_STATES,
  type SandboxEvent,
  type SandboxState,
  transitionSandbox,
} from "../src/index.ts";

const anyState = fc.constantFrom(...SANDBOX_STATES);
const anyEvent = fc.constantFrom(...SANDBOX_EVENTS);

function run(from: SandboxState, events: readonly SandboxEvent[]): SandboxState {
  return events.reduce<SandboxState>((state, event) => {
    const result = transitionSandbox(state, event);
    return result.kind === "move" ? result.to : state;
  }, from);
}

describe("the sandbox table", () => {
  test("I2: redelivering the event that caused a move never moves the sandbox again", () => {
    fc.assert(
      fc.property(anyState, anyEvent, (state, event) => {
        const once = run(state, [event]);
        expect(run(once, [event])).toBe(once);
      }),
    );
  });

  test("I3: a delete is accepted in every state, and from then on only the end is left", () => {
    fc.assert(
      fc.property(anyState, fc.array(anyEvent, { maxLength: 30 }), (state, events) => {
        const after = run(state, ["delete", ...events]);
        expect(["deleting", "deleted"]).toContain(after);
      }),
    );
  });

  test("S12, I4: every living state has a way on", () => {
    for (const state of SANDBOX_STATES.filter((candidate) => candidate !== "deleted")) {
      const ways = SANDBOX_EVENTS.filter(
        (event) => transitionSandbox(state, event).kind === "move",
      );
      expect(ways, state).not.toEqual([]);
    }
  });

  test("I5: a failed transition leads back to where it came from", () => {
    const back = [
      ["running", "pause", "is_running"],
      ["paused", "resume", "is_paused"],
      ["running", "stop", "is_running"],
      ["paused", "stop", "is_paused"],
      ["stopped", "start", "is_stopped"],
    ] as const;
    for (const [from, request, fact] of back)
      expect(run(from, [request, fact]), `${from} ${request}`).toBe(from);
  });

  test("I6: no request leads straight into a settled state", () => {
    for (const state of SANDBOX_STATES) {
      for (const request of SANDBOX_REQUESTS) {
        const result = transitionSandbox(state, request);
        if (result.kind === "move") expect(isStable(result.to), `${state} ${request}`).toBe(false);
      }
    }
  });

  test("S37: a fact reported by a host never deletes a sandbox that nobody deleted", () => {
    fc.assert(
      fc.property(
        anyState,
        fc.array(fc.constantFrom(...SANDBOX_FACTS), { maxLength: 20 }),
        (state, facts) => {
          if (state === "deleting" || state === "deleted") return;
          expect(["deleting", "deleted"]).not.toContain(run(state, facts));
        },
      ),
    );
  });

  test("each operation's target is what the table reaches when its host reports success", () => {
    const fact = {
      running: "is_running",
      paused: "is_paused",
      stopped: "is_stopped",
      deleted: "is_deleted",
    } as const;
    for (const kind of ["create", "pause", "resume", "stop", "start", "delete"] as const) {
      expect(run(OPERATION_TRANSITIONAL[kind], [fact[OPERATION_TARGET[kind]]]), kind).toBe(
        OPERATION_TARGET[kind],
      );
    }
  });

  test("the allowed list of a refusal never holds the refused request", () => {
    fc.assert(
      fc.property(anyState, fc.constantFrom(...SANDBOX_REQUESTS), (state, request) => {
        expect(allowedRequests(state).includes(request)).toBe(
          transitionSandbox(state, request).kind !== "refuse",
        );
      }),
    );
  });

  test("the seed's story: create, pause, resume, stop, start, delete", () => {
    const story: SandboxEvent[] = [
      "is_running",
      "pause",
      "is_paused",
      "resume",
      "is_running",
      "stop",
      "is_stopped",
      "start",
      "is_running",
      "delete",
      "is_deleted",
    ];
    expect(run("creating", story)).toBe("deleted");
  });
});
