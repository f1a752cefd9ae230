/**
 * JetStream streams and durable consumers as data; `ensureStreams()` in @torpor/bus applies them.
 * Durations in milliseconds, sizes in bytes.
 */
import type { HostId } from "./ids.ts";
import { patterns } from "./subjects.ts";

export interface StreamDefinition {
  name: string;
  subjects: string[];
  retention: "workqueue" | "limits";
  maxAgeMs: number;
  maxBytes: number;
  /**
   * A subject with this many waiting messages refuses more, and the publisher keeps them. Absent: a
   * full stream drops its oldest message.
   */
  maxMessagesPerSubject?: number;
  /** Publishes with the same `Nats-Msg-Id` within this window are stored once. */
  duplicateWindowMs: number;
}

export interface ConsumerDefinition {
  stream: string;
  durable: string;
  filterSubject: string;
  /**
   * A message without an acknowledgement is redelivered after this time; the loop in @torpor/bus
   * extends the time while a handler works.
   */
  ackWaitMs: number;
  /**
   * After this many deliveries the message is given up; reconcilers then find the work in the
   * database.
   */
  maxDeliver: number;
  maxAckPending: number;
}

const MINUTE_MS = 60_000;
const DAY_MS = 24 * 60 * MINUTE_MS;
const GIB = 1024 ** 3;

/**
 * For each of the five observed states of a host: no more messages are ever ahead of another
 * host's.
 */
const OBSERVATIONS_PER_SUBJECT = 64;

export const STREAMS = {
  INTENTS: {
    name: "INTENTS",
    subjects: [patterns.intents],
    retention: "workqueue",
    maxAgeMs: 7 * DAY_MS,
    maxBytes: GIB,
    duplicateWindowMs: 2 * MINUTE_MS,
  },
  COMMANDS: {
    name: "COMMANDS",
    subjects: [patterns.commands],
    retention: "workqueue",
    maxAgeMs: 7 * DAY_MS,
    maxBytes: GIB,
    duplicateWindowMs: 2 * MINUTE_MS,
  },
  OBSERVATIONS: {
    name: "OBSERVATIONS",
    subjects: [patterns.observations],
    retention: "workqueue",
    maxAgeMs: 7 * DAY_MS,
    maxBytes: GIB,
    maxMessagesPerSubject: OBSERVATIONS_PER_SUBJECT,
    duplicateWindowMs: 2 * MINUTE_MS,
  },
  EVENTS: {
    name: "EVENTS",
    subjects: [patterns.events],
    retention: "limits",
    maxAgeMs: 3 * DAY_MS,
    maxBytes: GIB,
    duplicateWindowMs: 2 * MINUTE_MS,
  },
} as const satisfies Record<string, StreamDefinition>;

/** The stream that stores messages of this subject; undefined: none. */
export function streamOf(subject: string): string | undefined {
  const tokens = subject.split(".");
  const takes = (pattern: string) => {
    const wanted = pattern.split(".");
    return (
      wanted.length === tokens.length &&
      wanted.every((token, at) => token === "*" || token === tokens[at])
    );
  };
  return Object.values(STREAMS).find((stream) => stream.subjects.some(takes))?.name;
}

export const SCHEDULER_INTENTS: ConsumerDefinition = {
  stream: "INTENTS",
  durable: "scheduler-intents",
  filterSubject: patterns.intents,
  ackWaitMs: 30_000,
  maxDeliver: 20,
  maxAckPending: 256,
};

export const SCHEDULER_OBSERVATIONS: ConsumerDefinition = {
  stream: "OBSERVATIONS",
  durable: "scheduler-observations",
  filterSubject: patterns.observations,
  ackWaitMs: 30_000,
  maxDeliver: 20,
  // Schedulers read ahead of what they handle, so that each host waits only for its own messages
  // (consume in @torpor/bus).
  maxAckPending: 4_096,
};

/**
 * Consumer of one host, made by the control plane when the host registers; the host may only pull.
 */
export function hostCommands(hostId: HostId): ConsumerDefinition {
  return {
    stream: "COMMANDS",
    durable: `host-${hostId}`,
    filterSubject: patterns.commandsOf(hostId),
    // Time until the commands of a killed agent are redelivered. A working agent extends the time
    // three times within it.
    ackWaitMs: 6_000,
    maxDeliver: -1,
    maxAckPending: 256,
  };
}
