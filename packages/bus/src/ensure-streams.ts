/**
 * Creates streams and consumers as the contracts define them, on one server or on a cluster.
 *
 * ES1  Idempotent, and safe for any number of concurrent processes: existing streams and consumers
 *      are updated to their definition, including the number of replicas.
 * ES2  The functions wait for a cluster that elects its leader, or has just lost a server; a
 *      setting that the cluster refuses is an error at once.
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
   * Servers that store each message; consumers follow their stream. More than one needs a cluster
   * of at least that size.
   */
  replicas?: number;
  signal?: AbortSignal;
  /** How long to wait for servers that do not reply; default 60 s. */
  limitMs?: number;
}

const QUIET_LIMIT_MS = 60_000;
const RETRY_MS = 250;
/**
 * Error codes of the server: replicas without a cluster; too few servers known yet; no leader yet;
 * request to a server that is not the leader.
 */
const NO_CLUSTER = 10_074;
const UNSETTLED: ReadonlySet<number> = new Set([10_005, 10_006, 10_009]);
const HTTP_UNAVAILABLE = 503;

export async function ensureStreams(bus: Bus, options: EnsureOptions = {}): Promise<void> {
  for (const stream of Object.values(STREAMS))
    await onceSettled(() => ensureStream(bus, stream, options.replicas ?? 1), options);
}

/**
 * Creates a durable consumer, or updates one that an earlier version defined differently. The
 * consumer has as many replicas as its stream.
 */
export async function ensureConsumer(
  bus: Bus,
  consumer: ConsumerDefinition,
  options: Omit<EnsureOptions, "replicas"> = {},
): Promise<void> {
  await onceSettled(() => ensureOneConsumer(bus, consumer), options);
}

/** Backlog of a durable consumer. */
export interface ConsumerState {
  durable: string;
  /** Messages that were not delivered yet. */
  waiting: number;
  /** Messages that were delivered and not acknowledged. */
  unacknowledged: number;
  /** Sequence number up to which everything is acknowledged. */
  ackFloor: number;
}

/**
 * Creates missing streams, and missing ones of these consumers: an operator may have removed them,
 * or the server may be new. Existing ones stay as they are. Returns the names of what was created,
 * and the states of the consumers that existed.
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

/** Retries while the servers do not know their leader. */
async function onceSettled(
  body: () => Promise<void>,
  { signal, limitMs = QUIET_LIMIT_MS }: EnsureOptions,
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

/** No server replied, or the server that did is not ready. */
function isUnsettled(error: unknown): boolean {
  if (error instanceof JetStreamApiError)
    return error.status === HTTP_UNAVAILABLE || UNSETTLED.has(error.code);
  return (
    error instanceof Error &&
    ["TimeoutError", "NoResponders", "RequestError", "JetStreamNotEnabled"].includes(error.name)
  );
}
