/**
 * `Idempotency-Key`: a request that is sent again runs once.
 *
 * ID1  The same key with the same request joins the running request, or gets its result.
 * ID2  The same key with another request is refused (422), as long as the key is remembered.
 * ID3  A running request does not depend on its clients: it continues when they leave, for the next
 *      client that sends the same key.
 * ID4  Memory is bounded, in number, bytes and time. Of a result that is too large, the agent keeps
 *      only that the request ran: a repeat gets 409, never a second run.
 *
 * Everything is in the agent's memory, which survives pause and resume. A stop, or the death of the
 * agent, loses it.
 */
import { createHash } from "node:crypto";
import stringify from "safe-stable-stringify";
import type { GuestLimits } from "../config.ts";
import { AgentError, tooMany } from "../errors.ts";
import type { RoutedRequest } from "../http/router.ts";
import { jsonReply, type Reply } from "../http/reply.ts";

interface Entry {
  fingerprint: string;
  result: Promise<string>;
  /** Set at the end. The text is undefined if it was too large to keep. */
  finished?: { atMs: number; bytes: number; text: string | undefined };
}

const KEY = /^[\x21-\x7e]{1,255}$/;
const MAX_RUNNING = 256;

export class IdempotencyMemory {
  private readonly limits: GuestLimits["idempotency"];
  private readonly entries = new Map<string, Entry>();
  private hits = 0;

  constructor(limits: GuestLimits["idempotency"]) {
    this.limits = limits;
  }

  /** Wraps a handler. `handle` gets a signal that no client can abort. */
  once(
    path: string,
    handle: (request: RoutedRequest) => unknown,
  ): (request: RoutedRequest) => Promise<unknown> {
    return async (request) => {
      const key = request.headers["idempotency-key"];
      if (key === undefined) return await handle(request);
      if (typeof key !== "string" || !KEY.test(key))
        throw new AgentError(
          400,
          "INVALID_REQUEST",
          '"Idempotency-Key" must be 1 to 255 printable characters without spaces',
        );
      return await this.join(key, fingerprintOf(path, request), () =>
        handle({ ...request, signal: new AbortController().signal }),
      );
    };
  }

  stats() {
    this.forget();
    const { results, keptMs } = this.limits;
    return {
      size: this.finishedCount(),
      max_size: results,
      total_hits: this.hits,
      ttl: keptMs / 1000,
    };
  }

  /** Removes all finished results; running requests stay known. */
  clear(): number {
    const finished = [...this.entries].filter(([, entry]) => entry.finished !== undefined);
    for (const [key] of finished) this.entries.delete(key);
    return finished.length;
  }

  private async join(key: string, fingerprint: string, run: () => unknown): Promise<Reply> {
    this.forget();
    const known = this.entries.get(key);
    if (known === undefined) return answer(await this.begin(key, fingerprint, run), false);
    if (known.fingerprint !== fingerprint)
      throw new AgentError(
        422,
        "IDEMPOTENCY_KEY_REUSED",
        "this Idempotency-Key was used for another request; use a new one",
      );
    if (known.finished !== undefined && known.finished.text === undefined)
      throw new AgentError(
        409,
        "IDEMPOTENT_RESULT_GONE",
        "this request has run; its result was too large to be kept",
      );
    this.hits += 1;
    return answer(await known.result, true);
  }

  private begin(key: string, fingerprint: string, run: () => unknown): Promise<string> {
    if (this.entries.size - this.finishedCount() >= MAX_RUNNING)
      throw tooMany(`${MAX_RUNNING} requests with an Idempotency-Key run already`);
    const result = Promise.resolve()
      .then(run)
      .then((value) => JSON.stringify(value ?? {}));
    const entry: Entry = { fingerprint, result };
    this.entries.set(key, entry);
    result.then(
      (text) => this.finish(key, entry, text),
      // The request did not run: the caller may correct it and use the key again.
      () => this.entries.delete(key),
    );
    return result;
  }

  private finish(key: string, entry: Entry, text: string): void {
    const fits = text.length * 2 <= this.limits.resultsBytes / 4;
    entry.finished = {
      atMs: performance.now(),
      bytes: fits ? text.length * 2 : 0,
      text: fits ? text : undefined,
    };
    if (!fits) entry.result = Promise.resolve("");
    // The map is ordered by the end of the requests, newest last.
    this.entries.delete(key);
    this.entries.set(key, entry);
    this.forget();
  }

  private forget(): void {
    const finished = [...this.entries].flatMap(([key, entry]) =>
      entry.finished === undefined ? [] : [{ key, ...entry.finished }],
    );
    let count = finished.length;
    let bytes = finished.reduce((sum, entry) => sum + entry.bytes, 0);
    const oldestMs = performance.now() - this.limits.keptMs;
    for (const entry of finished) {
      if (
        count <= this.limits.results &&
        bytes <= this.limits.resultsBytes &&
        entry.atMs > oldestMs
      )
        break;
      this.entries.delete(entry.key);
      count -= 1;
      bytes -= entry.bytes;
    }
  }

  private finishedCount(): number {
    return [...this.entries.values()].filter((entry) => entry.finished !== undefined).length;
  }
}

const answer = (text: string, isReplay: boolean): Reply =>
  jsonReply(200, JSON.parse(text), isReplay ? { "idempotency-replayed": "true" } : {});

/** The order of the fields in a request does not change the fingerprint. */
function fingerprintOf(path: string, request: RoutedRequest): string {
  return createHash("sha256")
    .update(`${path}\n${stringify(request.body)}`)
    .digest("hex");
}
