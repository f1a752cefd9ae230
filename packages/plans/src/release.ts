/**
 * Taking a sandbox that stands still off its host: its copy is in the store, its host's capacity
 * comes back. A later resume or start is placed anywhere, and fetches.
 *
 * RH1  What the store has not got is never released: the row of its snapshot has a store key, which
 *      its host reports once the last byte of it is there.
 * RH2  One compare-and-set moves the sandbox and tells the host to discard its copy. A message that
 *      is lost is repeated when the host reports the copy.
 */
import { subjects } from "@torpor/contracts";
import { type Moment, systemCommand } from "./commands.ts";
import { type Plan, planMoves } from "./plan.ts";
import type { Sandbox, View } from "./rows.ts";

export type ReleaseDecision =
  | { kind: "plan"; plan: Plan }
  /** Its snapshot, or the disk of a stopped one, is on its host alone. */
  | { kind: "not_replicated" }
  /** It neither stands still, nor is it on a host. */
  | { kind: "not_possible" };

export function planRelease({ sandbox, snapshot }: View, moment: Moment): ReleaseDecision {
  const { hostId } = sandbox;
  if (hostId === null || !isAtRest(sandbox)) return { kind: "not_possible" };
  if (snapshot === undefined || snapshot.storeKey === null) return { kind: "not_replicated" };
  const payload = systemCommand("discard", sandbox, hostId, moment);
  const discard = { subject: subjects.command(hostId, "discard"), payload, traceId: null };
  const patch = { hostId: null, holdsMemory: false };
  const move = { to: sandbox.state, fact: "released" as const, patch };
  return { kind: "plan", plan: planMoves(sandbox, [move], { messages: [discard] }) };
}

export function isAtRest({ state }: Pick<Sandbox, "state">): boolean {
  return state === "paused" || state === "stopped";
}
