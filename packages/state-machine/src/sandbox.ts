/**
 * The lifecycle of a sandbox, as data.
 *
 * Requests (`pause`, `resume`, ...) are what a user or the system wants; facts (`is_running`, ...)
 * are what a host observed. A cell is the state to move to, `stay` (already so: a redelivery or a
 * repeat, acknowledge it) or `refuse` (not legal here: 409 for a request, a warning for a fact).
 * `is_lost` is the only fact that no host reports: the run has gone with its host, fenced, and only
 * the snapshot in the store is left of the sandbox.
 *
 * Invariants, cited by the tests:
 * I1  Every (state, event) pair is decided; the type has no Partial.
 * I2  Redelivering the event that caused a move never moves again.
 * I3  `delete` is accepted in every state; nothing leaves `deleting` but to `deleted`, nothing
 *     leaves `deleted`.
 * I4  Some fact or request leads out of every state but `deleted`: no state is a trap.
 * I5  A transitional state goes back to the state it came from when its transition fails.
 * I6  A request never moves a sandbox straight into a settled state; only facts do.
 */

export const SANDBOX_STATES = [
  "creating",
  "running",
  "pausing",
  "paused",
  "resuming",
  "stopping",
  "stopped",
  "starting",
  "deleting",
  "deleted",
  "error",
] as const;
export type SandboxState = (typeof SANDBOX_STATES)[number];

export const SANDBOX_REQUESTS = ["pause", "resume", "stop", "start", "delete"] as const;
export type SandboxRequest = (typeof SANDBOX_REQUESTS)[number];

export const SANDBOX_FACTS = [
  "is_running",
  "is_paused",
  "is_stopped",
  "is_deleted",
  "is_lost",
  "fail",
] as const;
export type ObservedEvent = (typeof SANDBOX_FACTS)[number];

export type SandboxEvent = SandboxRequest | ObservedEvent;
export const SANDBOX_EVENTS: readonly SandboxEvent[] = [...SANDBOX_REQUESTS, ...SANDBOX_FACTS];

export type SandboxCell = SandboxState | "stay" | "refuse";

// oxfmt-ignore
export const SANDBOX_TABLE = {
  creating: { pause: "refuse",  resume: "refuse",   stop: "refuse",   start: "refuse",   delete: "deleting", is_running: "running", is_paused: "refuse", is_stopped: "refuse",  is_deleted: "refuse",  is_lost: "refuse",  fail: "error" },
  running:  { pause: "pausing", resume: "stay",     stop: "stopping", start: "stay",     delete: "deleting", is_running: "stay",    is_paused: "refuse", is_stopped: "stopped", is_deleted: "refuse",  is_lost: "paused",  fail: "error" },
  pausing:  { pause: "stay",    resume: "refuse",   stop: "refuse",   start: "refuse",   delete: "deleting", is_running: "running", is_paused: "paused", is_stopped: "stopped", is_deleted: "refuse",  is_lost: "paused",  fail: "error" },
  paused:   { pause: "stay",    resume: "resuming", stop: "stopping", start: "refuse",   delete: "deleting", is_running: "refuse",  is_paused: "stay",   is_stopped: "refuse",  is_deleted: "refuse",  is_lost: "stay",    fail: "error" },
  resuming: { pause: "refuse",  resume: "stay",     stop: "refuse",   start: "refuse",   delete: "deleting", is_running: "running", is_paused: "paused", is_stopped: "stopped", is_deleted: "refuse",  is_lost: "paused",  fail: "error" },
  stopping: { pause: "refuse",  resume: "refuse",   stop: "stay",     start: "refuse",   delete: "deleting", is_running: "running", is_paused: "paused", is_stopped: "stopped", is_deleted: "refuse",  is_lost: "paused",  fail: "error" },
  stopped:  { pause: "refuse",  resume: "refuse",   stop: "stay",     start: "starting", delete: "deleting", is_running: "refuse",  is_paused: "refuse", is_stopped: "stay",    is_deleted: "refuse",  is_lost: "refuse",  fail: "error" },
  starting: { pause: "refuse",  resume: "refuse",   stop: "refuse",   start: "stay",     delete: "deleting", is_running: "running", is_paused: "refuse", is_stopped: "stopped", is_deleted: "refuse",  is_lost: "paused",  fail: "error" },
  deleting: { pause: "refuse",  resume: "refuse",   stop: "refuse",   start: "refuse",   delete: "stay",     is_running: "stay",    is_paused: "stay",   is_stopped: "stay",    is_deleted: "deleted", is_lost: "stay",    fail: "stay"  },
  deleted:  { pause: "refuse",  resume: "refuse",   stop: "refuse",   start: "refuse",   delete: "stay",     is_running: "stay",    is_paused: "stay",   is_stopped: "stay",    is_deleted: "stay",    is_lost: "stay",    fail: "stay"  },
  error:    { pause: "refuse",  resume: "refuse",   stop: "refuse",   start: "refuse",   delete: "deleting", is_running: "refuse",  is_paused: "refuse", is_stopped: "refuse",  is_deleted: "refuse",  is_lost: "refuse",  fail: "stay"  },
} as const satisfies Record<SandboxState, Record<SandboxEvent, SandboxCell>>;

/** States in which nothing is in flight. */
export const SETTLED_STATES = [
  "creating",
  "running",
  "paused",
  "stopped",
  "deleted",
  "error",
] as const satisfies readonly SandboxState[];
export type StableState = (typeof SETTLED_STATES)[number];

/** States that hold memory and vCPUs of a host. `paused` and `stopped` hold only disk. */
export const STATES_HOLDING_MEMORY = [
  "creating",
  "running",
  "pausing",
  "resuming",
  "stopping",
  "starting",
  "deleting",
] as const satisfies readonly SandboxState[];

/** States that no API call shows: the tombstone is set, the clean-up may be pending on the host. */
export const TOMBSTONED_STATES = ["deleting", "deleted"] as const satisfies readonly SandboxState[];

export type Transition<State extends string, Event extends string> =
  | { kind: "move"; from: State; to: State }
  | { kind: "stay"; state: State }
  | { kind: "refuse"; state: State; event: Event };

export type SandboxTransition = Transition<SandboxState, SandboxEvent>;

/** Effect of `event` on a sandbox in `state`. Pure and total. */
export function transitionSandbox(state: SandboxState, event: SandboxEvent): SandboxTransition {
  const cell: SandboxCell = SANDBOX_TABLE[state][event];
  if (cell === "stay") return { kind: "stay", state };
  if (cell === "refuse") return { kind: "refuse", state, event };
  return { kind: "move", from: state, to: cell };
}

/**
 * Requests that a sandbox in `state` accepts or already satisfies, for the `allowed` list of a 409.
 */
export function allowedRequests(state: SandboxState): SandboxRequest[] {
  return SANDBOX_REQUESTS.filter((request) => SANDBOX_TABLE[state][request] !== "refuse");
}

export function isStable(state: SandboxState): state is StableState {
  return (SETTLED_STATES as readonly SandboxState[]).includes(state);
}

export function isTombstoned(state: SandboxState): boolean {
  return (TOMBSTONED_STATES as readonly SandboxState[]).includes(state);
}
