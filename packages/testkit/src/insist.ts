/**
 * A client like the SDKs: a request is repeated after a broken connection or a 5xx, and every other
 * response is final.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ApiRefusal } from "@torpor/client";
import type { TestFleet } from "./fleet.ts";

const RETRY_AFTER_MS = 150;

/** True for a refusal that a repetition of the request would not change. */
export const isFinal = (error: unknown): error is ApiRefusal =>
  error instanceof ApiRefusal && error.status < 500;

/**
 * Repeats a request until it resolves, or rejects with a final refusal. After `limitMs`, rejects
 * with the last error, whatever it is.
 */
export async function insist<T>(what: () => Promise<T>, limitMs = 60_000): Promise<T> {
  const deadline = performance.now() + limitMs;
  for (;;) {
    try {
      return await what();
    } catch (error) {
      if (isFinal(error) || performance.now() > deadline) throw error;
    }
    await sleep(RETRY_AFTER_MS);
  }
}

const MAX_TRIES = 5;

/**
 * Repeats a pause or resume that the host backed out of because its commit request got no reply in
 * time: nothing of the sandbox is lost.
 */
export async function transition(fleet: TestFleet, id: string, verb: "pause" | "resume") {
  for (let tries = 1; ; tries += 1)
    try {
      return await insist(() => fleet.client.sandboxes[verb](id));
    } catch (error) {
      const isBackedOut = error instanceof ApiRefusal && error.code === "OPERATION_CANCELLED";
      if (!isBackedOut || tries === MAX_TRIES) throw error;
    }
}

/** Deletes a sandbox; one that a try before a broken connection has deleted already is as good. */
export async function insistOnDelete(fleet: TestFleet, id: string): Promise<void> {
  try {
    await insist(() => fleet.client.sandboxes.delete(id));
  } catch (error) {
    if (!(isFinal(error) && error.status === 404)) throw error;
  }
}
