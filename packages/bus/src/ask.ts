/** Questions and answers, and plain subscriptions: core NATS, nothing stored. */
import { type Decoder, InvalidMessageError } from "@torpor/contracts";
import type { Msg } from "@nats-io/nats-core";
import { settlesWithin } from "@torpor/service";
import type { Bus } from "./connect.ts";
import type { ConsumeLog } from "./consume.ts";

export type Answer<T> = { kind: "answer"; value: T } | { kind: "no_answer"; cause: unknown };

/** Asks and waits for one answer, at most `timeoutMs`. Nobody there, too late and unreadable are all "no answer". */
export async function ask<T>(
  bus: Bus,
  subject: string,
  question: unknown,
  options: { timeoutMs: number; decode: Decoder<T> },
): Promise<Answer<T>> {
  try {
    const reply = await bus.connection.request(subject, JSON.stringify(question), { timeout: options.timeoutMs });
    return { kind: "answer", value: options.decode(subject, reply.data) };
  } catch (cause) {
    return { kind: "no_answer", cause };
  }
}

const DRAIN_LIMIT_MS = 2_000;

/**
 * Answers questions on `pattern`, shared with the others of `queue`. A question that fails gets no answer: the asker's limit decides.
 * Returns how to stop: the next question is another's, those that have arrived are still answered.
 */
export function answer<T>(
  bus: Bus,
  options: { pattern: string; queue: string; decode: Decoder<T>; handle(question: T, subject: string): Promise<unknown>; log: ConsumeLog },
): () => Promise<void> {
  const replies = new Set<Promise<void>>();
  const reply = async (message: Msg) => {
    try {
      const value = await options.handle(options.decode(message.subject, message.data), message.subject);
      message.respond(JSON.stringify(value));
    } catch (err) {
      report(options.log, err, message.subject);
    }
  };
  const subscription = bus.connection.subscribe(options.pattern, {
    queue: options.queue,
    callback: (error, message) => {
      if (error !== null) return options.log.warn({ err: error, pattern: options.pattern }, "subscription error");
      const task = reply(message).finally(() => replies.delete(task));
      replies.add(task);
    },
  });
  return async () => {
    // Without a server it would wait for one.
    await settlesWithin(subscription.drain(), DRAIN_LIMIT_MS);
    await Promise.allSettled(replies);
  };
}

/** Hears what is published on `pattern` while it listens. Returns how to stop. */
export function subscribeCore<T>(
  bus: Bus,
  options: {
    pattern: string;
    queue?: string;
    decode: Decoder<T>;
    handle(message: T, subject: string): void | Promise<void>;
    log: ConsumeLog;
  },
): () => void {
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
      if (error === null) void hear(message);
      else options.log.warn({ err: error, pattern: options.pattern }, "subscription error");
    },
  });
  return () => subscription.unsubscribe();
}

function report(log: ConsumeLog, err: unknown, subject: string): void {
  if (err instanceof InvalidMessageError) log.error({ err, subject }, "message rejected");
  else log.warn({ err, subject }, "message handler failed");
}
