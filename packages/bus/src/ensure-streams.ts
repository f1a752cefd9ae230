import { AckPolicy, DeliverPolicy, JetStreamApiError, RetentionPolicy } from "@nats-io/jetstream";
import { nanos } from "@nats-io/nats-core";
import { type ConsumerDefinition, type StreamDefinition, STREAMS } from "@torpor/contracts";
import type { Bus } from "./connect.ts";

/** Makes the streams of the contracts exist as they are defined. Idempotent; any number of processes may do it at once. */
export async function ensureStreams(bus: Bus): Promise<void> {
  for (const stream of Object.values(STREAMS)) await ensureStream(bus, stream);
}

async function ensureStream(bus: Bus, stream: StreamDefinition): Promise<void> {
  const manager = await bus.manager();
  const config = {
    name: stream.name,
    subjects: [...stream.subjects],
    retention: stream.retention === "workqueue" ? RetentionPolicy.Workqueue : RetentionPolicy.Limits,
    max_age: nanos(stream.maxAgeMs),
    max_bytes: stream.maxBytes,
    duplicate_window: nanos(stream.duplicateWindowMs),
  };
  try {
    await manager.streams.add(config);
  } catch (error) {
    if (!(error instanceof JetStreamApiError)) throw error;
    try {
      await manager.streams.update(stream.name, config);
    } catch (cause) {
      throw new Error(
        `stream ${stream.name} exists with settings that cannot be changed; remove it or give this fleet a NATS account of its own`,
        { cause },
      );
    }
  }
}

/** Makes a durable consumer exist as it is defined, also where an earlier version has defined it otherwise. Idempotent. */
export async function ensureConsumer(bus: Bus, consumer: ConsumerDefinition): Promise<void> {
  const manager = await bus.manager();
  const config = {
    filter_subject: consumer.filterSubject,
    ack_policy: AckPolicy.Explicit,
    deliver_policy: DeliverPolicy.All,
    ack_wait: nanos(consumer.ackWaitMs),
    max_deliver: consumer.maxDeliver,
    max_ack_pending: consumer.maxAckPending,
  };
  try {
    await manager.consumers.add(consumer.stream, { durable_name: consumer.durable, ...config });
  } catch (error) {
    if (!(error instanceof JetStreamApiError)) throw error;
    await manager.consumers.update(consumer.stream, consumer.durable, config);
  }
}
