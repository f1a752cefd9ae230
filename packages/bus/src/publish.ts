import { headers } from "@nats-io/nats-core";
import type { Bus } from "./connect.ts";

export interface OutgoingMessage {
  subject: string;
  payload: unknown;
  /** Publishes with the same id within the stream's window are stored once. */
  msgId: string;
  traceId?: string | undefined;
}

export type Published = { kind: "stored" } | { kind: "duplicate" } | { kind: "unavailable"; cause: unknown };

export const TRACE_HEADER = "Torpor-Trace-Id";
const LIMIT_MS = 3_000;

/** Publishes to a stream and waits, at most 3 s, until the server has stored it. An outage is a value: whoever publishes keeps the message until then. */
export async function publish(bus: Bus, message: OutgoingMessage): Promise<Published> {
  const meta = headers();
  if (message.traceId !== undefined) meta.set(TRACE_HEADER, message.traceId);
  try {
    const options = { msgID: message.msgId, headers: meta, timeout: LIMIT_MS };
    const ack = await bus.jetstream.publish(message.subject, JSON.stringify(message.payload), options);
    return ack.duplicate ? { kind: "duplicate" } : { kind: "stored" };
  } catch (cause) {
    return { kind: "unavailable", cause };
  }
}

/** Publishes what the next one supersedes: not stored, lost when nobody listens. */
export function publishCore(bus: Bus, subject: string, payload: unknown): void {
  if (!bus.connection.isClosed()) bus.connection.publish(subject, JSON.stringify(payload));
}
