/**
 * Waits for an operation to end, for a request that answers when it has.
 *
 * W1  The operation's row decides, and nothing else: an event only makes the next look sooner. So a lost event, an outage of NATS or the death of another process costs at most
 *     one interval.
 * W2  A database that does not answer costs latency, not the answer: the wait goes on until its own limit.
 * W3  The wait never ends the operation, whatever ends the wait.
 * W4  The longer a request has waited, the rarer it looks: a crowd that waits for room would take the time of the database from those that are being started.
 */
import { findOperation, forOrganization, type OperationRow } from "@torpor/db";
import { isEnded } from "@torpor/state-machine";
import type { Dependencies } from "./deps.ts";

export type WaitedFor<T> = { kind: "seen"; value: T } | { kind: "still_open" } | { kind: "client_gone" } | { kind: "stopping" };
export type Waited = { kind: "ended"; operation: OperationRow } | Exclude<WaitedFor<never>, { kind: "seen" }>;

type WaitDependencies = Pick<Dependencies, "db" | "events" | "log" | "stopping" | "limits">;

/** Waits at most `limits.waitMs`, and no longer than the client or this process does. */
export async function waitForOperation(deps: WaitDependencies, operation: OperationRow, gone: AbortSignal): Promise<Waited> {
  if (isEnded(operation.status)) return { kind: "ended", operation };
  const look = async () => {
    const current = await findOperation(forOrganization(deps.db, operation.organizationId), operation.id);
    return current !== undefined && isEnded(current.status) ? current : undefined;
  };
  const waited = await waitFor(deps, operation.sandboxId, look, gone);
  return waited.kind === "seen" ? { kind: "ended", operation: waited.value } : waited;
}

/** Waits until `look` finds something in the database: looks at once, after each event of the sandbox, and in any case again and again (W1, W2). */
export async function waitFor<T>(
  deps: WaitDependencies,
  sandboxId: string,
  look: () => Promise<T | undefined>,
  gone: AbortSignal,
): Promise<WaitedFor<T>> {
  const startedAt = performance.now();
  const limitAt = startedAt + deps.limits.waitMs;
  const alarm = createAlarm();
  const unwatch = deps.events.watch(sandboxId, alarm.ring);
  const interrupts = AbortSignal.any([gone, deps.stopping]);
  interrupts.addEventListener("abort", alarm.ring);
  try {
    for (;;) {
      const value = await inTime(deps, sandboxId, look, limitAt);
      if (value !== undefined) return { kind: "seen", value };
      if (gone.aborted) return { kind: "client_gone" };
      if (deps.stopping.aborted) return { kind: "stopping" };
      const now = performance.now();
      if (now >= limitAt) return { kind: "still_open" };
      await alarm.wait(Math.min(limitAt - now, lookAgainAfterMs(deps.limits.lookEveryMs, now - startedAt)));
    }
  } finally {
    unwatch();
    interrupts.removeEventListener("abort", alarm.ring);
  }
}

const MAX_LOOK_EVERY_MS = 1_000;
const SHARE_OF_WAIT = 0.1;

/** W4 */
const lookAgainAfterMs = (everyMs: number, waitedMs: number) => Math.max(everyMs, Math.min(MAX_LOOK_EVERY_MS, waitedMs * SHARE_OF_WAIT));

/** Sooner than the database client gives up a silent server: the next look asks anew. */
const LOOK_LIMIT_MS = 3_000;

/** What `look` finds; undefined also when the database did not answer in time. */
async function inTime<T>(
  deps: WaitDependencies,
  sandboxId: string,
  look: () => Promise<T | undefined>,
  limitAt: number,
): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const tooLate = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), Math.min(LOOK_LIMIT_MS, Math.max(0, limitAt - performance.now())));
  });
  const read = look().catch((err: unknown) => {
    deps.log.debug({ err, sandboxId }, "the database could not be read while a request waits for it");
    return undefined;
  });
  try {
    return await Promise.race([read, tooLate]);
  } finally {
    clearTimeout(timer);
  }
}

/** A sleep that can be cut short. A ring while nobody sleeps cuts the next sleep. */
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
