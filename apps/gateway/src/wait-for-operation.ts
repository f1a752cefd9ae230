/**
 * Waits for an operation to end, for a request that answers when it has.
 *
 * W1  The operation's row decides, and nothing else: an event only makes the next look sooner. So a lost event, an outage of NATS or the death of another process costs at most
 *     one interval.
 * W2  A database that does not answer costs latency, not the answer: the wait goes on until its own limit.
 * W3  The wait never ends the operation, whatever ends the wait.
 */
import { findOperation, type OperationRow } from "@torpor/db";
import { isEnded } from "@torpor/state-machine";
import type { Dependencies } from "./deps.ts";

export type Waited = { kind: "ended"; operation: OperationRow } | { kind: "still_open" } | { kind: "client_gone" } | { kind: "stopping" };

type WaitDependencies = Pick<Dependencies, "db" | "events" | "log" | "stopping" | "limits">;

/** Waits at most `limits.waitMs`, and no longer than the client or this process does. */
export async function waitForOperation(deps: WaitDependencies, operation: OperationRow, gone: AbortSignal): Promise<Waited> {
  const limitAt = performance.now() + deps.limits.waitMs;
  const alarm = createAlarm();
  const unwatch = deps.events.watch(operation.sandboxId, alarm.ring);
  const interrupts = AbortSignal.any([gone, deps.stopping]);
  interrupts.addEventListener("abort", alarm.ring);
  try {
    for (let current: OperationRow | undefined = operation; ; current = await look(deps, operation, limitAt)) {
      if (current !== undefined && isEnded(current.status)) return { kind: "ended", operation: current };
      if (gone.aborted) return { kind: "client_gone" };
      if (deps.stopping.aborted) return { kind: "stopping" };
      const leftMs = limitAt - performance.now();
      if (leftMs <= 0) return { kind: "still_open" };
      await alarm.wait(Math.min(leftMs, deps.limits.lookEveryMs));
    }
  } finally {
    unwatch();
    interrupts.removeEventListener("abort", alarm.ring);
  }
}

/** Sooner than the database client gives up a silent server: the next look asks anew. */
const LOOK_LIMIT_MS = 3_000;

/** The row as it is now; undefined when the database did not say so in time. */
async function look(deps: WaitDependencies, operation: OperationRow, limitAt: number): Promise<OperationRow | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const tooLate = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), Math.min(LOOK_LIMIT_MS, Math.max(0, limitAt - performance.now())));
  });
  const read = findOperation(deps.db, operation.id).catch((err: unknown) => {
    deps.log.debug({ err, operationId: operation.id }, "operation could not be read while a request waits for it");
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
