/**
 * What the gateway hears of the fleet's events: wake-ups, never facts. Whoever is woken looks at the database; a lost event costs the interval at which it looks anyway.
 */
import type { SandboxEventMessage } from "@torpor/contracts";

type Listener = (event: SandboxEventMessage) => void;

export interface SandboxEvents {
  /** Called for events of one sandbox until the returned function is called. */
  watch(sandboxId: string, listener: Listener): () => void;
  /** Called for all events until the returned function is called. */
  watchAll(listener: Listener): () => void;
  /** Hands an event to its listeners. */
  emit: (event: SandboxEventMessage) => void;
}

export function createSandboxEvents(): SandboxEvents {
  const bySandbox = new Map<string, Set<Listener>>();
  const all = new Set<Listener>();
  return {
    watch(sandboxId, listener) {
      const listeners = bySandbox.get(sandboxId) ?? new Set();
      bySandbox.set(sandboxId, listeners.add(listener));
      return () => {
        listeners.delete(listener);
        if (listeners.size === 0 && bySandbox.get(sandboxId) === listeners) bySandbox.delete(sandboxId);
      };
    },
    watchAll(listener) {
      all.add(listener);
      return () => all.delete(listener);
    },
    emit(event) {
      for (const listener of all) listener(event);
      for (const listener of bySandbox.get(event.sandboxId) ?? []) listener(event);
    },
  };
}
