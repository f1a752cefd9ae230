/**
 * The life of a host, as data.
 *
 * `register` and `renew` come from the host's agent, `lease_ended` and `drained` from reconcilers,
 * the others from operators. A cell is the state to move to, `stay` (already so), `refuse`,
 * `return` (to the state before the loss) or `later` (changes the state that the host will return
 * to). Two conditions are checked beside the table: a host is drained only if its sandboxes have
 * somewhere to go, and retired only when it has none.
 *
 * -   Every (state, event) pair is decided; the type has no Partial.
 * H2  A lost host returns to its state before the loss; what an operator decides meanwhile holds
 *     from then on.
 * H3  Nothing leaves `retired`.
 * H4  A drain ends in `cordoned`, however it ends: only an operator lets the host take sandboxes
 *     again.
 */
import type { Transition } from "./sandbox.ts";

/**
 * Only `ready` hosts get new sandboxes. `lost`: the lease has ended. `retired`: the host will not
 * come back.
 */
export const HOST_STATES = ["ready", "cordoned", "draining", "lost", "retired"] as const;
export type HostState = (typeof HOST_STATES)[number];

/** Requests of operators. */
export const HOST_REQUESTS = ["cordon", "uncordon", "drain", "abort_drain", "retire"] as const;
export type HostRequest = (typeof HOST_REQUESTS)[number];

export const HOST_FACTS = ["register", "renew", "lease_ended", "drained"] as const;
export type HostEvent = HostRequest | (typeof HOST_FACTS)[number];
export const HOST_EVENTS: readonly HostEvent[] = [...HOST_REQUESTS, ...HOST_FACTS];

export type HostCell = HostState | "stay" | "refuse" | "return" | "later";

// oxfmt-ignore
export const HOST_TABLE = {
  ready:    { cordon: "cordoned", uncordon: "stay",   drain: "draining", abort_drain: "refuse",   retire: "refuse",  register: "stay",   renew: "stay",   lease_ended: "lost", drained: "refuse" },
  cordoned: { cordon: "stay",     uncordon: "ready",  drain: "draining", abort_drain: "refuse",   retire: "retired", register: "stay",   renew: "stay",   lease_ended: "lost", drained: "stay" },
  draining: { cordon: "stay",     uncordon: "refuse", drain: "stay",     abort_drain: "cordoned", retire: "refuse",  register: "stay",   renew: "stay",   lease_ended: "lost", drained: "cordoned" },
  lost:     { cordon: "later",    uncordon: "later",  drain: "refuse",   abort_drain: "later",    retire: "retired", register: "return", renew: "return", lease_ended: "stay", drained: "later" },
  retired:  { cordon: "refuse",   uncordon: "refuse", drain: "refuse",   abort_drain: "refuse",   retire: "stay",    register: "refuse", renew: "refuse", lease_ended: "stay", drained: "stay" },
} as const satisfies Record<HostState, Record<HostEvent, HostCell>>;

/** States of a host that holds a lease. */
export const LEASED_STATES = [
  "ready",
  "cordoned",
  "draining",
] as const satisfies readonly HostState[];

/** The state of a host, and its state before the loss; null in every state but `lost`. */
export interface HostStanding {
  state: HostState;
  before: HostState | null;
}

export type HostTransition = Transition<HostState, HostEvent> & { before: HostState | null };

/**
 * Effect of `event` on a host. Pure and total. A lost host may move from `lost` to `lost`: the
 * state that it returns to has changed.
 */
export function transitionHost({ state, before }: HostStanding, event: HostEvent): HostTransition {
  const cell: HostCell = HOST_TABLE[state][event];
  if (cell === "stay") return { kind: "stay", state, before };
  if (cell === "refuse") return { kind: "refuse", state, event, before };
  if (cell === "return") return { kind: "move", from: state, to: before ?? "ready", before: null };
  if (cell === "later") {
    const inner = transitionHost({ state: before ?? "ready", before: null }, event);
    if (inner.kind === "move") return { kind: "move", from: state, to: state, before: inner.to };
    return inner.kind === "stay"
      ? { kind: "stay", state, before }
      : { kind: "refuse", state, event, before };
  }
  return { kind: "move", from: state, to: cell, before: cell === "lost" ? state : null };
}

/** The requests that a host accepts or already satisfies, for the `allowed` list of a 409. */
export function allowedHostRequests(standing: HostStanding): HostRequest[] {
  return HOST_REQUESTS.filter((request) => transitionHost(standing, request).kind !== "refuse");
}
