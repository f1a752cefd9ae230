/**
 * JetStream streams and durable consumers as data; `ensureStreams()` in @torpor/bus applies them.
 * Durations in milliseconds, sizes in bytes.
 */
import { patterns } from "./subjects.ts";

export interface StreamDefinition {
  name: string;
  subjects: string[];
  retention: "workqueue" | "limits";
  maxAgeMs: number;
  maxBytes: number;
  /**
   * A message of a subject that has so many waiting is refused, and whoever publishes keeps it.
   * Absent: the oldest message of the stream makes room when it is full.
   */
  maxMessagesPerSubject?: number;
  /** Publishes with the same `Nats-Msg-Id` within it are stored once. */
  duplicateWindowMs: number;
}

export interface ConsumerDefinition {
  stream: string;
  durable: string;
  filterSubject: string;
  /**
   * Redelivered when not acknowledged by then; the loop in @torpor/bus extends it while a handler
   * works.
   */
  ackWaitMs: number;
  /**
   * After so many deliveries the message is given up; reconcilers find what it was about in the
   * database.
   */
  maxDeliver: number;
  maxAckPending: number;
}

const MINUTE_MS = 60_000;
const DAY_MS = 24 * 60 * MINUTE_MS;
const GIB = 1024 ** 3;

/**
 * What a host may have waiting is this for each of the five observed states: no more is ever before
 * another host's.
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

/** The stream that keeps what is published to this subject; undefined: none does. */
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
  // Schedulers read ahead of what they handle, so that each host waits for itself alone (consume
  // in @torpor/bus).
  maxAckPending: 4_096,
};

/**
 * One per host, made by the control side when the host registers; the host itself may only pull
 * from it.
 */
export function hostCommands(hostId: string): ConsumerDefinition {
  return {
    stream: "COMMANDS",
    durable: `host-${hostId}`,
    filterSubject: patterns.commandsOf(hostId),
    // What an agent that was killed had in its hands comes again after so long. One that works says
    // so three times within it.
    ackWaitMs: 6_000,
    maxDeliver: -1,
    maxAckPending: 256,
  };
}
