/**
 * What the gateway hears of the fleet's events: wake-ups, never facts. Whoever is woken looks at
 * the database; a lost event costs the interval at which it looks anyway.
 */
import type { SandboxEventMessage } from "@torpor/contracts";
import { ENDED_STATUSES } from "@torpor/state-machine";

type Listener = (event: SandboxEventMessage) => void;

export interface SandboxEvents {
  /** Called for events of one sandbox until the returned function is called. */
  watch(sandboxId: string, listener: Listener): () => void;
  /** Called for all events until the returned function is called. */
  watchAll(listener: Listener): () => void;
  /**
   * Whether the end of that operation was heard, maybe before anybody watched. Of the newest alone.
   */
  hasEnded(operationId: string): boolean;
  /** Hands an event to its listeners. */
  emit: (event: SandboxEventMessage) => void;
}

/** More than a gateway hears of while one of its requests is between its accept and its wait. */
const REMEMBERED_ENDS = 4_096;
const ENDED: ReadonlySet<string> = new Set(ENDED_STATUSES);

export function createSandboxEvents(): SandboxEvents {
  const bySandbox = new Map<string, Set<Listener>>();
  const all = new Set<Listener>();
  /** The oldest first. */
  const ends = new Set<string>();
  const rememberEnd = (operationId: string) => {
    ends.add(operationId);
    const [oldest] = ends;
    if (ends.size > REMEMBERED_ENDS && oldest !== undefined) ends.delete(oldest);
  };
  return {
    watch(sandboxId, listener) {
      const listeners = bySandbox.get(sandboxId) ?? new Set();
      bySandbox.set(sandboxId, listeners.add(listener));
      return () => {
        listeners.delete(listener);
        if (listeners.size === 0 && bySandbox.get(sandboxId) === listeners)
          bySandbox.delete(sandboxId);
      };
    },
    watchAll(listener) {
      all.add(listener);
      return () => all.delete(listener);
    },
    hasEnded: (operationId) => ends.has(operationId),
    emit(event) {
      const { operationId } = event;
      if (operationId !== undefined && endsOperation(event, operationId)) rememberEnd(operationId);
      for (const listener of all) listener(event);
      for (const listener of bySandbox.get(event.sandboxId) ?? []) listener(event);
    },
  };
}

export function endsOperation(event: SandboxEventMessage, operationId: string): boolean {
  return event.operationId === operationId && ENDED.has(event.operationStatus ?? "");
}
