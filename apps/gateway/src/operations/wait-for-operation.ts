/**
 * Waits for an operation to end, for a request that responds when it has.
 *
 * W1  Only the operation's row decides: an event only makes the next read sooner. So a lost event,
 *     an outage of NATS or the death of another process costs at most one interval.
 * -   A database that does not reply costs latency, not the response: the wait continues until its
 *     own limit.
 * -   The end of a wait never ends the operation.
 * W4  A waiting request costs nothing but its reads: one when the end is announced, and one an
 *     interval, which is long while the bus is connected, and short while it is away.
 */
import type { OperationId, SandboxEventMessage, SandboxId } from "@torpor/contracts";
import { findOperationEnd, forOrganization, type OperationRow } from "@torpor/db";
import { isEnded, isTombstoned } from "@torpor/state-machine";
import type { Dependencies } from "../deps.ts";
import { endsOperation } from "./sandbox-events.ts";

export type WaitedFor<T> =
  | { kind: "seen"; value: T }
  | { kind: "still_open" }
  | { kind: "client_gone" }
  | { kind: "stopping" };
export type Waited =
  | { kind: "ended"; operation: OperationRow }
  | Exclude<WaitedFor<never>, { kind: "seen" }>;

export type WaitDependencies = Pick<
  Dependencies,
  "db" | "events" | "log" | "stopping" | "limits" | "busConnected"
>;

/** The result that a request waits for, and when to read it. */
interface Watched<T> {
  sandboxId: SandboxId;
  /** Undefined: not yet. */
  look: () => Promise<T | undefined>;
  /** True if the event may announce the result. */
  wakes: (event: SandboxEventMessage) => boolean;
  /** True if the result may be there before the first event. */
  looksAtOnce: () => boolean;
}

/**
 * Waits at most `limits.waitMs`, and ends sooner when the client leaves or the process stops.
 * `isNew`: this request has just created the operation, so the first read waits for an event.
 */
export async function waitForOperation(
  deps: WaitDependencies,
  { operation, isNew }: { operation: OperationRow; isNew: boolean },
  gone: AbortSignal,
): Promise<Waited> {
  if (isEnded(operation.status)) return { kind: "ended", operation };
  const { id, sandboxId, organizationId } = operation;
  const look = async () => {
    const end = await findOperationEnd(forOrganization(deps.db, organizationId), id);
    return end === undefined ? undefined : { ...operation, ...end };
  };
  const wakes = (event: SandboxEventMessage) => mayEnd(event, id);
  const looksAtOnce = () => !isNew || deps.events.hasEnded(id);
  const waited = await waitFor(deps, { sandboxId, look, wakes, looksAtOnce }, gone);
  return waited.kind === "seen" ? { kind: "ended", operation: waited.value } : waited;
}

/**
 * True for the end of the operation, or when another one executes: an operation that was replaced
 * has no event of its own.
 */
function mayEnd(event: SandboxEventMessage, operationId: OperationId): boolean {
  if (endsOperation(event, operationId)) return true;
  if (event.operationId === operationId) return false;
  return event.operationStatus === "executing" || isTombstoned(event.to);
}

/**
 * Waits until `look` finds a result in the database: reads after each event that wakes it, and at
 * each interval (W1).
 */
export async function waitFor<T>(
  deps: WaitDependencies,
  watched: Watched<T>,
  gone: AbortSignal,
): Promise<WaitedFor<T>> {
  const startedAt = performance.now();
  const limitAt = startedAt + deps.limits.waitMs;
  const alarm = createAlarm();
  const unwatch = deps.events.watch(watched.sandboxId, (event) => {
    if (watched.wakes(event)) alarm.ring();
  });
  const interrupts = AbortSignal.any([gone, deps.stopping]);
  interrupts.addEventListener("abort", alarm.ring);
  try {
    // Checked after the watch has begun, so that no event is missed.
    if (watched.looksAtOnce() || interrupts.aborted) alarm.ring();
    for (;;) {
      const leftMs = limitAt - performance.now();
      if (leftMs > 0) await alarm.wait(Math.min(leftMs, intervalMs(deps)));
      const value = await inTime(deps, watched, limitAt);
      if (value !== undefined) return { kind: "seen", value };
      if (gone.aborted) return { kind: "client_gone" };
      if (deps.stopping.aborted) return { kind: "stopping" };
      if (leftMs <= 0) return { kind: "still_open" };
    }
  } finally {
    unwatch();
    interrupts.removeEventListener("abort", alarm.ring);
  }
}

const intervalMs = ({ limits, busConnected }: WaitDependencies) =>
  busConnected() ? limits.lookEveryMs : limits.lookWithoutBusEveryMs;

/** Shorter than the database client's limit for a silent server: the next read tries again. */
const LOOK_LIMIT_MS = 3_000;

/** The result of `look`; undefined also when the database does not reply in time. */
async function inTime<T>(
  { log }: WaitDependencies,
  { sandboxId, look }: Watched<T>,
  limitAt: number,
): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const leftMs = Math.max(0, limitAt - performance.now());
  const tooLate = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), Math.min(LOOK_LIMIT_MS, leftMs));
  });
  const read = look().catch((err: unknown) => {
    log.debug({ err, sandboxId }, "operation could not be read while a request waited");
    return undefined;
  });
  try {
    return await Promise.race([read, tooLate]);
  } finally {
    clearTimeout(timer);
  }
}

/** A sleep that a ring ends early. A ring between two sleeps ends the next one. */
function createAlarm() {
  let rung = false;
  let wake: (() => void) | undefined;
  return {
    ring: () => {
      rung = true;
      wake?.();
    },
    wait: async (ms: number) => {
      if (!rung) {
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, ms);
          wake = () => {
            clearTimeout(timer);
            resolve();
          };
        });
        wake = undefined;
      }
      rung = false;
    },
  };
}
