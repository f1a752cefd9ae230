/**
 * The only loop that reads a durable consumer: decode, handle, then ack, nak or term.
 *
 * C1  A message that cannot be decoded is terminated: a redelivery cannot help.
 * C2  A handler that throws is a transient failure: the message is redelivered, later each time.
 * C3  At most `concurrency` handlers run. While a message is handled or waits for a slot, the loop
 *     reports that to the server, so that no other process gets the message.
 * C4  The loop survives reconnects, a restarted server, and a consumer that does not exist yet or
 *     moves to another account; only the signal ends the loop.
 * C5  If messages have several senders, each sender waits only for its own messages (`laneOf`):
 *     messages are read ahead of what is handled, and the senders take turns.
 */
import type { Consumer, JsMsg } from "@nats-io/jetstream";
import { type ConsumerDefinition, type Decoder, InvalidMessageError } from "@torpor/contracts";
import type { Bus } from "./connect.ts";
import { Lanes } from "./lanes.ts";
import { TRACE_HEADER } from "./publish.ts";

export type MessageVerdict = "ack" | "reject" | { kind: "retry"; delayMs: number };

export interface MessageContext {
  subject: string;
  /** 1 for the first delivery. */
  delivery: number;
  traceId: string | undefined;
}

export interface ConsumeLog {
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

export interface ConsumeOptions<T> {
  consumer: ConsumerDefinition;
  decode: Decoder<T>;
  handle(message: T, context: MessageContext): Promise<MessageVerdict>;
  concurrency: number;
  /** Sender of a message, by its subject; absent: messages are handled in order of arrival. */
  laneOf?: (subject: string) => string;
  /** Handlers for one sender; default: half of `concurrency`. */
  concurrencyPerLane?: number;
  /** Called after each attempt to open the consumer. */
  noteReadable?(isReadable: boolean): void;
  signal: AbortSignal;
  log: ConsumeLog;
}

/** Messages that wait in lanes, and those that are being handled. */
const READ_AHEAD = 2_048;
/** Per sender: more than the stream holds for one. */
const WAITING_PER_LANE = 512;
const SHARE_OF_LANE = 0.5;
/** Delay before the redelivery of a message over its sender's limit. */
const CROWDED_RETRY_MS = 1_000;

const RETRY_BASE_MS = 200;
const RETRY_MAX_MS = 10_000;
const REOPEN_AFTER_MS = 500;
/**
 * After two missed heartbeats, the client requests messages again. Nothing else reports that the
 * consumer's leader is gone.
 */
const HEARTBEAT_MS = 2_000;
/**
 * Duration of one request for messages. The client also sleeps that long before it retries a
 * consumer without a leader; the default is half a minute.
 */
const PULL_MS = 5_000;

/** Runs the loop. Resolves when the signal has ended it and the handlers have finished. */
export async function consume<T>(bus: Bus, options: ConsumeOptions<T>): Promise<void> {
  const running = new Set<Promise<void>>();
  const { laneOf } = options;
  const work: Work = laneOf === undefined ? inArrival(options) : inLanes(options, laneOf);
  while (!options.signal.aborted) {
    try {
      await readUntilClosed(bus, options, work, running);
    } catch (err) {
      if (!options.signal.aborted) options.noteReadable?.(false);
      if (!options.signal.aborted)
        options.log.warn(
          { err, consumer: options.consumer.durable },
          "consumer could not be read; retrying",
        );
    }
    await wait(REOPEN_AFTER_MS, options.signal);
  }
  await Promise.allSettled(running);
}

/** How many messages are read ahead, and how a message gets a slot. */
interface Work {
  readAhead: number;
  judge(message: JsMsg): Promise<MessageVerdict>;
}

function inArrival<T>(options: ConsumeOptions<T>): Work {
  return { readAhead: options.concurrency, judge: (message) => judge(options, message) };
}

function inLanes<T>(options: ConsumeOptions<T>, laneOf: (subject: string) => string): Work {
  const { concurrency: atOnce, signal } = options;
  const atOncePerLane = options.concurrencyPerLane ?? Math.ceil(atOnce * SHARE_OF_LANE);
  const lanes = new Lanes({ atOnce, atOncePerLane, waiting: WAITING_PER_LANE });
  // A message that has not begun when the loop ends goes to another process.
  const begin = async (message: JsMsg): Promise<MessageVerdict> =>
    signal.aborted ? { kind: "retry", delayMs: 0 } : await judge(options, message);
  return {
    readAhead: READ_AHEAD,
    judge: (message) =>
      new Promise((resolve) => {
        const isIn = lanes.add(laneOf(message.subject), async () => resolve(await begin(message)));
        if (!isIn) resolve({ kind: "retry", delayMs: CROWDED_RETRY_MS });
      }),
  };
}

async function readUntilClosed<T>(
  bus: Bus,
  options: ConsumeOptions<T>,
  work: Work,
  running: Set<Promise<void>>,
): Promise<void> {
  const source = await find(bus, options.consumer);
  const messages = await source.consume({
    max_messages: work.readAhead,
    expires: PULL_MS,
    idle_heartbeat: HEARTBEAT_MS,
    abort_on_missing_resource: true,
  });
  options.noteReadable?.(true);
  const stop = () => messages.stop();
  // After a reconnect, the server or the user's account may be a different one.
  const forget = bus.onReconnect(stop);
  options.signal.addEventListener("abort", stop, { once: true });
  // The signal may have aborted while the consumer was opened.
  if (options.signal.aborted) stop();
  // At most one promise waits. Promise.race over all tasks would add a reaction to each task for
  // every message.
  let freed = () => {};
  try {
    for await (const message of messages) {
      const task = handleOne(options, work, message).finally(() => {
        running.delete(task);
        freed();
      });
      running.add(task);
      if (running.size >= work.readAhead) await new Promise<void>((resolve) => (freed = resolve));
    }
  } finally {
    options.signal.removeEventListener("abort", stop);
    forget();
  }
}

async function find(bus: Bus, { stream, durable }: ConsumerDefinition): Promise<Consumer> {
  const causes: unknown[] = [];
  for (const api of bus.apis) {
    try {
      return await api.consumers.get(stream, durable);
    } catch (cause) {
      causes.push(cause);
    }
  }
  throw new AggregateError(causes, `consumer ${durable} of ${stream} was not found`);
}

async function handleOne<T>(options: ConsumeOptions<T>, work: Work, message: JsMsg): Promise<void> {
  // Often enough that one lost signal does no harm.
  const working = setInterval(() => message.working(), options.consumer.ackWaitMs / 3);
  try {
    const verdict = await work.judge(message);
    if (verdict === "ack") message.ack();
    else if (verdict === "reject") message.term();
    else message.nak(verdict.delayMs);
  } finally {
    clearInterval(working);
  }
}

async function judge<T>(options: ConsumeOptions<T>, message: JsMsg): Promise<MessageVerdict> {
  const delivery = message.info.deliveryCount;
  try {
    const decoded = options.decode(message.subject, message.data);
    return await options.handle(decoded, {
      subject: message.subject,
      delivery,
      traceId: message.headers?.get(TRACE_HEADER) || undefined,
    });
  } catch (err) {
    if (err instanceof InvalidMessageError) {
      options.log.error({ err, subject: message.subject }, "message rejected");
      return "reject";
    }
    options.log.warn(
      { err, subject: message.subject, delivery },
      "message handler failed; the message will be delivered again",
    );
    return {
      kind: "retry",
      delayMs: Math.min(RETRY_MAX_MS, RETRY_BASE_MS * 2 ** Math.min(delivery, 10)),
    };
  }
}

async function wait(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        resolve();
      },
      { once: true },
    );
  });
}
