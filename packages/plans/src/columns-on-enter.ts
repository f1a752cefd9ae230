import type { Cause } from "@torpor/contracts";
import type { SandboxState } from "@torpor/state-machine";
import type { Sandbox } from "./rows.ts";

/**
 * Time for which a failed create stays visible with its cause, in ms; then the expiry deletes it.
 */
const FAILED_CREATE_KEPT_MS = 600_000;

type Patch = Partial<
  Pick<
    Sandbox,
    | "holdsMemory"
    | "hostId"
    | "startedAt"
    | "endedAt"
    | "expiresAt"
    | "timeoutLeftMs"
    | "lastActiveAt"
    | "error"
  >
>;

/**
 * Columns, beside the state, that change when a sandbox enters settled state `to`: reservations,
 * the clocks of timeout and idleness, the visible error.
 */
export function columnsOnEnter(
  sandbox: Sandbox,
  to: SandboxState,
  cause: Cause | undefined,
  now: Date,
): Patch {
  if (to === sandbox.state) return {};
  switch (to) {
    case "running":
      // The idle clock restarts with every run, and after a pause that was given up: no pause right
      // after a resume (S23).
      return {
        holdsMemory: true,
        error: null,
        startedAt: sandbox.startedAt ?? now,
        lastActiveAt: now,
        ...runningClock(sandbox, now),
      };
    case "paused":
      return { holdsMemory: false, ...stoppedClock(sandbox, now) };
    case "stopped":
      return {
        holdsMemory: false,
        ...stoppedClock(sandbox, now),
        ...(sandbox.state === "running" && cause !== undefined ? { error: cause } : {}),
      };
    case "deleted":
      return { holdsMemory: false, hostId: null };
    case "error": {
      const failedCreate = sandbox.state === "creating";
      const error = cause ?? {
        code: "HOST_REPORTED_FAILURE",
        message: "The host reported that the sandbox cannot go on.",
      };
      return {
        holdsMemory: false,
        error,
        ...(failedCreate
          ? { hostId: null, expiresAt: new Date(now.getTime() + FAILED_CREATE_KEPT_MS) }
          : {}),
      };
    }
    default:
      return {};
  }
}

/**
 * Starts the timeout's clock, which counts only while the sandbox runs: from the create, or with
 * the time that was left (S55).
 */
function runningClock(sandbox: Sandbox, now: Date): Patch {
  if (sandbox.timeoutSeconds === null || sandbox.expiresAt !== null) return {};
  const leftMs = sandbox.timeoutLeftMs ?? sandbox.timeoutSeconds * 1000;
  return { expiresAt: new Date(now.getTime() + leftMs), timeoutLeftMs: null };
}

function stoppedClock(sandbox: Sandbox, now: Date): Patch {
  if (sandbox.expiresAt === null) return {};
  return {
    expiresAt: null,
    timeoutLeftMs: Math.max(1000, sandbox.expiresAt.getTime() - now.getTime()),
  };
}
