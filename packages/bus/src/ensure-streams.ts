/**
 * Streams and consumers as the contracts define them, on one server or on a cluster.
 *
 * ES1  Idempotent, and safe for any number of processes at once: what exists is brought to its
 *      definition, its number of replicas included.
 * ES2  A cluster that elects its leader, or has just lost a server, is waited for; a setting that
 *      it refuses is an error at once.
 */
import {
  AckPolicy,
  type ConsumerInfo,
  DeliverPolicy,
  DiscardPolicy,
  JetStreamApiError,
  RetentionPolicy,
} from "@nats-io/jetstream";
import { nanos } from "@nats-io/nats-core";
import { type ConsumerDefinition, type StreamDefinition, STREAMS } from "@torpor/contracts";
import type { Bus } from "./connect.ts";

interface EnsureOptions {
  /**
   * On how many servers each message is; consumers follow their stream. More than one needs a
   * cluster of at least as many.
   */
  replicas?: number;
  signal?: AbortSignal;
  /** How long servers that do not answer are waited for; 60 s. */
  limitMs?: number;
}

const SETTLE_LIMIT_MS = 60_000;
const RETRY_MS = 250;
/**
 * Error codes of the server: replicas without a cluster; too few servers known yet; no leader yet;
 * asked of one that is no leader.
 */
const NO_CLUSTER = 10_074;
const UNSETTLED: ReadonlySet<number> = new Set([10_005, 10_006, 10_009]);
const HTTP_UNAVAILABLE = 503;

export async function ensureStreams(bus: Bus, options: EnsureOptions = {}): Promise<void> {
  for (const stream of Object.values(STREAMS))
    await onceSettled(() => ensureStream(bus, stream, options.replicas ?? 1), options);
}

/**
 * Makes a durable consumer exist as it is defined, also where an earlier version has defined it
 * otherwise. It has as many replicas as its stream.
 */
export async function ensureConsumer(
  bus: Bus,
  consumer: ConsumerDefinition,
  options: Omit<EnsureOptions, "replicas"> = {},
): Promise<void> {
  await onceSettled(() => ensureOneConsumer(bus, consumer), options);
}

/** What waits for a durable consumer. */
export interface ConsumerState {
  durable: string;
  /** Messages that nobody has been given. */
  waiting: number;
  /** Those that somebody has, and has not acknowledged. */
  unacknowledged: number;
  /** Everything up to it is acknowledged. */
  ackFloor: number;
}

/**
 * Makes what is missing of all streams and of these consumers: an operator may have removed one, or
 * the server may be another. What is there is left as it is. Returns the names of what was made,
 * and how the consumers were that were there.
 */
export async function restoreMissing(
  bus: Bus,
  consumers: ConsumerDefinition[],
  options: EnsureOptions = {},
): Promise<{ made: string[]; states: ConsumerState[] }> {
  const manager = await bus.manager();
  const made: string[] = [];
  const states: ConsumerState[] = [];
  const streams = new Set(await Array.fromAsync(manager.streams.names()));
  const absent = Object.values(STREAMS).filter(({ name }) => !streams.has(name));
  for (const stream of absent) {
    await onceSettled(() => ensureStream(bus, stream, options.replicas ?? 1), options);
    made.push(stream.name);
  }
  for (const [stream, wanted] of Map.groupBy(consumers, (consumer) => consumer.stream)) {
    const there = (await Array.fromAsync(manager.consumers.list(stream))).map(stateOf);
    states.push(...there);
    const known = new Set(there.map(({ durable }) => durable));
    for (const consumer of wanted.filter(({ durable }) => !known.has(durable))) {
      await ensureConsumer(bus, consumer, options);
      made.push(consumer.durable);
    }
  }
  return { made, states };
}

function stateOf({ name, num_pending, num_ack_pending, ack_floor }: ConsumerInfo): ConsumerState {
  return {
    durable: name,
    waiting: num_pending,
    unacknowledged: num_ack_pending,
    ackFloor: ack_floor.stream_seq,
  };
}

async function ensureStream(bus: Bus, stream: StreamDefinition, replicas: number): Promise<void> {
  const manager = await bus.manager();
  const config = {
    name: stream.name,
    subjects: [...stream.subjects],
    retention:
      stream.retention === "workqueue" ? RetentionPolicy.Workqueue : RetentionPolicy.Limits,
    max_age: nanos(stream.maxAgeMs),
    max_bytes: stream.maxBytes,
    duplicate_window: nanos(stream.duplicateWindowMs),
    num_replicas: replicas,
    ...perSubject(stream),
  };
  try {
    await manager.streams.add(config);
  } catch (error) {
    if (!(error instanceof JetStreamApiError) || isUnsettled(error)) throw error;
    if (error.code === NO_CLUSTER)
      throw new Error(
        `${replicas} replicas are asked for, but the NATS server is in no cluster: set NATS_REPLICAS=1, or give NATS_URL the servers of a cluster`,
        { cause: error },
      );
    await manager.streams.update(stream.name, config).catch((cause: unknown) => {
      if (isUnsettled(cause)) throw cause;
      throw new Error(
        `stream ${stream.name} exists with settings that cannot be changed; remove it or give this fleet a NATS account of its own`,
        { cause },
      );
    });
  }
}

function perSubject({ maxMessagesPerSubject }: StreamDefinition) {
  if (maxMessagesPerSubject === undefined) return {};
  return {
    max_msgs_per_subject: maxMessagesPerSubject,
    discard: DiscardPolicy.New,
    discard_new_per_subject: true,
  };
}

async function ensureOneConsumer(bus: Bus, consumer: ConsumerDefinition): Promise<void> {
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
    if (!(error instanceof JetStreamApiError) || isUnsettled(error)) throw error;
    await manager.consumers.update(consumer.stream, consumer.durable, config);
  }
}

/** Tries again while the servers do not know their leader. */
async function onceSettled(
  body: () => Promise<void>,
  { signal, limitMs = SETTLE_LIMIT_MS }: EnsureOptions,
): Promise<void> {
  const deadline = performance.now() + limitMs;
  for (;;) {
    try {
      return await body();
    } catch (error) {
      if (!isUnsettled(error) || performance.now() > deadline || signal?.aborted === true)
        throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

/** Nobody answered, or whoever did cannot yet. */
function isUnsettled(error: unknown): boolean {
  if (error instanceof JetStreamApiError)
    return error.status === HTTP_UNAVAILABLE || UNSETTLED.has(error.code);
  return (
    error instanceof Error &&
    ["TimeoutError", "NoResponders", "RequestError", "JetStreamNotEnabled"].includes(error.name)
  );
}
