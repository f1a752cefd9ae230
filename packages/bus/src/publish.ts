import { headers } from "@nats-io/nats-core";
import type { Bus } from "./connect.ts";

export interface OutgoingMessage {
  subject: string;
  payload: unknown;
  /** Publishes with the same id within the stream's window are stored once. */
  msgId: string;
  traceId?: string | undefined;
}

export type Published =
  | { kind: "stored" }
  | { kind: "duplicate" }
  /** No server will ever accept the message. */
  | { kind: "refused"; reason: string }
  | { kind: "unavailable"; cause: unknown };

export const TRACE_HEADER = "Torpor-Trace-Id";
const LIMIT_MS = 3_000;

/**
 * Publishes to a stream and waits, for at most 3 s, until the server has stored the message. An
 * outage is a value, and the publisher keeps the message.
 */
export async function publish(bus: Bus, message: OutgoingMessage): Promise<Published> {
  const meta = headers();
  if (message.traceId !== undefined) meta.set(TRACE_HEADER, message.traceId);
  const payload = JSON.stringify(message.payload);
  const reason = refusalOf(bus, message.subject, payload);
  if (reason !== undefined) return { kind: "refused", reason };
  try {
    const options = { msgID: message.msgId, headers: meta, timeout: LIMIT_MS };
    const ack = await bus.jetstream.publish(message.subject, payload, options);
    return ack.duplicate ? { kind: "duplicate" } : { kind: "stored" };
  } catch (cause) {
    return { kind: "unavailable", cause };
  }
}

/** Part of the server's message limit that is reserved for headers. */
const HEADER_ROOM_BYTES = 4 * 1024;
const SUBJECT = /^[^\s.*>]+(\.[^\s.*>]+)*$/;

/** Limit of a payload, as last reported by the server; undefined: none was reached yet. */
export function maxMessageBytes({ connection }: Bus): number | undefined {
  const max = connection.info?.max_payload;
  return max === undefined ? undefined : max - HEADER_ROOM_BYTES;
}

function refusalOf(bus: Bus, subject: string, payload: string): string | undefined {
  if (!SUBJECT.test(subject)) return `"${subject}" is no subject to publish to`;
  const bytes = Buffer.byteLength(payload);
  const most = maxMessageBytes(bus) ?? Number.POSITIVE_INFINITY;
  return bytes > most ? `it has ${bytes} bytes, and the server takes ${most}` : undefined;
}

/** Publishes a message that the next one supersedes: not stored, and lost without a subscriber. */
export function publishCore(bus: Bus, subject: string, payload: unknown): void {
  if (!bus.connection.isClosed()) bus.connection.publish(subject, JSON.stringify(payload));
}
