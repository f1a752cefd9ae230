import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  admit,
  OPERATION_KINDS,
  OPERATION_TARGET,
  OPERATION_TRANSITIONAL,
  SANDBOX_REQUESTS,
  type SandboxQueue,
  SETTLED_STATES,
  transitionSandbox,
} from "../src/index.ts";

const kindsOnQueue = OPERATION_KINDS.filter((kind) => kind !== "create" && kind !== "delete");

/**
 * Queues as the system can build them: an executing operation puts the sandbox in its transitional
 * state.
 */
const anyQueue: fc.Arbitrary<SandboxQueue> = fc
  .record({
    settled: fc.constantFrom(...SETTLED_STATES.filter((state) => state !== "deleted")),
    executing: fc.option(
      fc.record({ kind: fc.constantFrom(...kindsOnQueue), committed: fc.boolean() }),
      { nil: undefined },
    ),
    waiting: fc.option(fc.constantFrom(...kindsOnQueue), { nil: undefined }),
  })
  .map(({ settled, executing, waiting }) => ({
    settled,
    state: executing === undefined ? settled : OPERATION_TRANSITIONAL[executing.kind],
    executing: executing === undefined ? undefined : { id: "op_executing", ...executing },
    waiting:
      executing === undefined || waiting === undefined
        ? undefined
        : { id: "op_waiting", kind: waiting },
  }));
const anyRequest = fc.constantFrom(...SANDBOX_REQUESTS);

describe("admission", () => {
  test("A1, S31: what the end of the queue reaches already is joined or satisfied, never a conflict", () => {
    fc.assert(
      fc.property(anyQueue, anyRequest, (queue, request) => {
        const last = queue.waiting ?? queue.executing;
        const end = last === undefined ? queue.settled : OPERATION_TARGET[last.kind];
        if (
          request === "delete" ||
          OPERATION_TARGET[request] !== end ||
          transitionSandbox(end, request).kind !== "stay"
        )
          return;
        expect(admit(queue, request)).toEqual(
          last === undefined
            ? { kind: "satisfied", state: end }
            : { kind: "join", operationId: last.id },
        );
      }),
    );
  });

  test("A2: at most one operation waits; a different one is refused naming it", () => {
    fc.assert(
      fc.property(anyQueue, anyRequest, (queue, request) => {
        if (queue.waiting === undefined || request === "delete") return;
        const admission = admit(queue, request);
        expect(admission.kind).not.toBe("accept");
        if (admission.kind === "blocked") expect(admission.by).toEqual(queue.waiting);
      }),
    );
  });

  test("A3, S10, S18: a delete is accepted whatever is in the queue, and replaces what waits", () => {
    fc.assert(
      fc.property(anyQueue, (queue) => {
        const admission = admit(queue, "delete");
        expect(admission.kind).toBe("accept");
        if (admission.kind === "accept") expect(admission.supersedes).toBe(queue.waiting?.id);
      }),
    );
    expect(admit({ state: "deleting", settled: "running" }, "delete")).toEqual({ kind: "gone" });
  });

  test("A4, S21: a resume cancels a pause that has not committed, and follows one that has", () => {
    const pausing = (committed: boolean): SandboxQueue => ({
      state: "pausing",
      settled: "running",
      executing: { id: "op_p", kind: "pause", committed },
    });
    expect(admit(pausing(false), "resume")).toEqual({ kind: "accept", cancels: "op_p" });
    expect(admit(pausing(true), "resume")).toEqual({ kind: "accept" });
  });

  test("A5: what waits and yields is joined, or replaced by what it would be in the way of", () => {
    fc.assert(
      fc.property(anyQueue, anyRequest, (queue, request) => {
        if (queue.waiting === undefined || request === "delete") return;
        const yielding = { ...queue, waiting: { ...queue.waiting, yields: true } };
        const [behind, without] = [
          admit(queue, request),
          admit({ ...queue, waiting: undefined }, request),
        ];
        const admission = admit(yielding, request);
        expect(admission.kind).not.toBe("blocked");
        if (behind.kind === "join") expect(admission).toEqual(behind);
        else if (without.kind === "conflict") expect(admission).toEqual(without);
        else expect(admission).toEqual({ ...without, supersedes: "op_waiting" });
      }),
    );
  });

  test("A6: a pause that was asked to back out is not joined, as it may not come about", () => {
    const executing = {
      id: "op_p",
      kind: "pause",
      committed: false,
      cancelRequested: true,
    } as const;
    expect(admit({ state: "pausing", settled: "running", executing }, "pause")).toEqual({
      kind: "accept",
    });
    const waiting = { id: "op_r", kind: "resume", yields: true } as const;
    expect(admit({ state: "pausing", settled: "running", executing, waiting }, "pause")).toEqual({
      kind: "accept",
      supersedes: "op_r",
    });
  });

  test("a real mismatch is a conflict that says what is allowed instead", () => {
    expect(admit({ state: "stopped", settled: "stopped" }, "resume")).toEqual({
      kind: "conflict",
      current: "stopped",
      allowed: ["stop", "start", "delete"],
    });
    expect(admit({ state: "paused", settled: "paused" }, "start")).toEqual({
      kind: "conflict",
      current: "paused",
      allowed: ["pause", "resume", "stop", "delete"],
    });
  });

  test("a request made while a create executes waits for it", () => {
    const queue: SandboxQueue = {
      state: "creating",
      settled: "creating",
      executing: { id: "op_c", kind: "create", committed: false },
    };
    expect(admit(queue, "pause")).toEqual({ kind: "accept" });
    expect(admit(queue, "resume")).toEqual({ kind: "join", operationId: "op_c" });
  });
});
