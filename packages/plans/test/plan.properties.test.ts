/** Properties of every plan, whatever moves it is made of. */
import { unverifiedHostId } from "@torpor/contracts";
import { isStable, SANDBOX_STATES, type SandboxState } from "@torpor/state-machine";
import fc from "fast-check";
import { expect, test } from "vitest";
import { claimsBetween, holdings } from "../src/holdings.ts";
import { planMoves } from "../src/plan.ts";
import { aSandbox } from "./rows.ts";

const host = fc.constantFrom(null, ...["host-a", "host-b", "host-c"].map(unverifiedHostId));
const state = fc.constantFrom<SandboxState>(...SANDBOX_STATES);
const move = fc.record({
  to: state,
  fact: fc.constantFrom("settings_changed", "timeout_set"),
  patch: fc.record({ hostId: host, originHostId: host, holdsMemory: fc.boolean() }),
});
const sandbox = fc
  .record({ state, hostId: host, originHostId: host, holdsMemory: fc.boolean() })
  .map((given) => aSandbox(given));

test("M4: each move is one event, numbered without a gap, from the state before it", () => {
  fc.assert(
    fc.property(sandbox, fc.array(move, { maxLength: 4 }), (row, moves) => {
      const plan = planMoves(row, moves);
      expect(plan.generation).toBe(row.generation);
      expect(plan.after.generation).toBe(row.generation + moves.length);
      expect(plan.events.map(({ seq }) => seq)).toEqual(moves.map((_, at) => row.lastSeq + at + 1));
      expect(plan.events.map(({ fromState }) => fromState)).toEqual(
        moves.map((_, at) => moves[at - 1]?.to ?? row.state),
      );
      expect(plan.messages).toHaveLength(moves.length);
      expect(plan.after.settledState).toBe(
        moves.findLast(({ to }) => isStable(to))?.to ?? row.settledState,
      );
    }),
  );
});

test("M3: what a plan takes of hosts is what the row holds after it, less what it held", () => {
  fc.assert(
    fc.property(sandbox, fc.array(move, { maxLength: 4 }), (row, moves) => {
      const plan = planMoves(row, moves);
      const sums = new Map<string, number[]>();
      const add = (hostId: string, amounts: number[]) =>
        sums.set(
          hostId,
          amounts.map((amount, at) => amount + (sums.get(hostId)?.[at] ?? 0)),
        );
      for (const { hostId, vcpu, memoryMib, diskMib } of [...holdings(row), ...plan.claims])
        add(hostId, [vcpu, memoryMib, diskMib]);
      for (const { hostId, vcpu, memoryMib, diskMib } of holdings({ ...row, ...plan.after }))
        add(hostId, [-vcpu, -memoryMib, -diskMib]);
      for (const sum of sums.values()) expect(sum.map(Math.abs)).toEqual([0, 0, 0]);
    }),
  );
});

test("M5: a settled sandbox is nowhere else than where it is", () => {
  fc.assert(
    fc.property(sandbox, move, (row, one) => {
      const { after } = planMoves(row, [one]);
      if (isStable(after.state)) expect(after.originHostId).toBeNull();
    }),
  );
});

test("a sandbox that changes nothing takes nothing", () => {
  fc.assert(
    fc.property(sandbox, (row) => {
      expect(claimsBetween(row, row)).toEqual([]);
    }),
  );
});
