/** Requests and replies, and plain subscriptions: core NATS, nothing stored. */
import { type Decoder, hostIdOf, InvalidMessageError } from "@torpor/contracts";
import type { Msg } from "@nats-io/nats-core";
import { endsWithin } from "@torpor/service";
import type { Bus } from "./connect.ts";
import type { ConsumeLog } from "./consume.ts";
import { type LaneLimits, Lanes } from "./lanes.ts";
import { mayBeAnswered } from "./permissions.ts";

export type RequestReply<T> = { kind: "answer"; value: T } | { kind: "no_answer"; cause: unknown };

/**
 * Sends a request and waits for one reply, for at most `timeoutMs`. No responder, a late reply and
 * an unreadable reply are all "no answer".
 */
export async function request<T>(
  bus: Bus,
  subject: string,
  question: unknown,
  options: { timeoutMs: number; decode: Decoder<T> },
): Promise<RequestReply<T>> {
  try {
    const reply = await bus.connection.request(subject, JSON.stringify(question), {
      timeout: options.timeoutMs,
    });
    return { kind: "answer", value: options.decode(subject, reply.data) };
  } catch (cause) {
    return { kind: "no_answer", cause };
  }
}

const DRAIN_LIMIT_MS = 2_000;

export interface RequestHandler<T> {
  pattern: string;
  queue: string;
  decode: Decoder<T>;
  handle(question: T, subject: string): Promise<unknown>;
  /** Reply to a request that cannot be decoded; absent: no reply. */
  refuse?(reason: string): unknown;
  /** Limit over all hosts; default 16. Higher where requests are handled in batches. */
  atOnce?: number;
  log: ConsumeLog;
}

export interface CoreHandler<T> {
  pattern: string;
  queue?: string;
  decode: Decoder<T>;
  handle(message: T, subject: string): void | Promise<void>;
  /** Limit over all hosts; default 16. Higher where messages are handled in batches. */
  atOnce?: number;
  log: ConsumeLog;
}

/** Per process, for each kind of request. */
const QUESTIONS_OF_A_HOST: LaneLimits = { atOnce: 16, atOncePerLane: 4, waiting: 64 };
/** In order, and few, because the next messages repeat the content. */
const MESSAGES_OF_A_HOST: LaneLimits = { atOnce: 16, atOncePerLane: 1, waiting: 8 };
const CONTROL_SIDE = "";

/**
 * Handles requests on `pattern`, shared with the other processes of `queue`. Requests of a host
 * wait for each other, not for other hosts. A request that fails, or is over its sender's limit,
 * gets no reply: the sender's time limit decides. A request whose reply would go elsewhere than to
 * its sender gets none either, because a reply is sent with the rights of the handler. Returns a
 * function that ends the subscription and waits for the requests that have arrived.
 */
export function handleRequests<T>(bus: Bus, options: RequestHandler<T>): () => Promise<void> {
  const { pattern, log } = options;
  const { atOnce = QUESTIONS_OF_A_HOST.atOnce } = options;
  const lanes = new Lanes({ ...QUESTIONS_OF_A_HOST, atOnce });
  const subscription = bus.connection.subscribe(pattern, {
    queue: options.queue,
    callback: (error, message) => {
      if (error !== null) return log.warn({ err: error, pattern }, "subscription error");
      const { subject, reply = "" } = message;
      const host = hostIdOf(subject);
      if (host !== undefined && !mayBeAnswered(host, reply))
        return log.error(
          { subject, reply },
          "request refused: its reply goes to another inbox than the host's",
        );
      if (!lanes.add(host ?? CONTROL_SIDE, () => replyTo(message, options)))
        log.warn({ subject }, "request dropped: too many of this sender wait");
    },
  });
  return async () => {
    // Without a server, `drain` would wait for one.
    await endsWithin(subscription.drain(), DRAIN_LIMIT_MS);
    await lanes.ended();
  };
}

async function replyTo<T>(message: Msg, options: RequestHandler<T>): Promise<void> {
  const { subject, data } = message;
  try {
    const value = await options.handle(options.decode(subject, data), subject);
    message.respond(JSON.stringify(value));
  } catch (err) {
    report(options.log, err, subject);
    if (err instanceof InvalidMessageError && options.refuse !== undefined)
      message.respond(JSON.stringify(options.refuse(err.message)));
  }
}

/**
 * Handles messages on `pattern`: those of one host in order, except messages over its limit, which
 * are dropped. Returns a function that ends the subscription.
 */
export function subscribeCore<T>(bus: Bus, options: CoreHandler<T>): () => void {
  const { atOnce = MESSAGES_OF_A_HOST.atOnce } = options;
  const lanes = new Lanes({ ...MESSAGES_OF_A_HOST, atOnce });
  const hear = async (message: Msg) => {
    try {
      await options.handle(options.decode(message.subject, message.data), message.subject);
    } catch (err) {
      report(options.log, err, message.subject);
    }
  };
  const subscription = bus.connection.subscribe(options.pattern, {
    ...(options.queue === undefined ? {} : { queue: options.queue }),
    callback: (error, message) => {
      if (error !== null)
        return options.log.warn({ err: error, pattern: options.pattern }, "subscription error");
      const host = hostIdOf(message.subject);
      if (host === undefined) void hear(message);
      else lanes.add(host, () => hear(message));
    },
  });
  return () => subscription.unsubscribe();
}

function report(log: ConsumeLog, err: unknown, subject: string): void {
  if (err instanceof InvalidMessageError) log.error({ err, subject }, "message rejected");
  else log.warn({ err, subject }, "message handler failed");
}
