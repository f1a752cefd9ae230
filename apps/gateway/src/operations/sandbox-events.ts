/**
 * Events of the fleet, which only wake: a woken request reads the database. A lost event costs the
 * interval at which the request reads anyway.
 */
import type { OperationId, SandboxEventMessage, SandboxId } from "@torpor/contracts";
import { ENDED_STATUSES } from "@torpor/state-machine";

type Listener = (event: SandboxEventMessage) => void;

export interface SandboxEvents {
  /** Called for events of one sandbox until the returned function is called. */
  watch(sandboxId: SandboxId, listener: Listener): () => void;
  /** Called for all events until the returned function is called. */
  watchAll(listener: Listener): () => void;
  /**
   * True if the end of the operation was received, maybe before `watch`. Only the newest ends are
   * remembered.
   */
  hasEnded(operationId: OperationId): boolean;
  /** Hands an event to its listeners. */
  emit: (event: SandboxEventMessage) => void;
}

/** More than a gateway receives between the accept of one of its requests and its wait. */
const REMEMBERED_ENDS = 4_096;
const ENDED: ReadonlySet<string> = new Set(ENDED_STATUSES);

export function createSandboxEvents(): SandboxEvents {
  const bySandbox = new Map<SandboxId, Set<Listener>>();
  const all = new Set<Listener>();
  /** The oldest first. */
  const ends = new Set<OperationId>();
  const rememberEnd = (operationId: OperationId) => {
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

export function endsOperation(event: SandboxEventMessage, operationId: OperationId): boolean {
  return event.operationId === operationId && ENDED.has(event.operationStatus ?? "");
}
