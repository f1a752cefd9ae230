/**
 * Takes a sandbox at rest off its host: its copy is in the store, and the host gets the capacity
 * back. A later resume or start is placed on any host, and fetches.
 *
 * RH1  What the store does not have is never released: the row of the snapshot has a store key,
 *      which the host reports once the last byte is in the store.
 * RH2  One compare-and-set moves the sandbox and queues the command that discards the copy. A lost
 *      command is repeated when the host reports the copy.
 */
import { subjects } from "@torpor/contracts";
import { type Moment, systemCommand } from "./commands.ts";
import { type Plan, planMoves } from "./plan.ts";
import type { Sandbox, View } from "./rows.ts";

export type ReleaseDecision =
  | { kind: "plan"; plan: Plan }
  /** Only the host has the snapshot, or the disk of a stopped sandbox. */
  | { kind: "not_replicated" }
  /** The sandbox is not at rest, or is on no host. */
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
