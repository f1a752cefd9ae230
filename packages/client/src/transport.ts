/** One request of the API, and its answer. */
import { ApiRefusal, NoAnswer } from "./errors.ts";

export interface ClientOptions {
  /** Where the API listens, such as `http://127.0.0.1:8787`. */
  baseUrl: string;
  apiKey: string;
  /** For one request, with its wait for an operation; 60 s. */
  limitMs?: number;
}

type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

/** Terms of one call. */
export interface Terms {
  /** Ends the call, not the operation that it has begun. */
  signal?: AbortSignal | undefined;
  limitMs?: number | undefined;
  /** Makes the request safe to repeat: the same key has the same result. */
  idempotencyKey?: string | undefined;
  /** How long the API waits for the operation, in seconds, before it answers 503. */
  waitSeconds?: number | undefined;
}

export type Query = Record<string, string | number | boolean | undefined>;

interface Call extends Terms {
  query?: Query;
  body?: unknown;
  /** `respond-async`: the answer is the operation, at once. */
  prefer?: string;
}

/**
 * Resolves with the body of a 2xx; a 202, whose body is an operation, only if the call asked for
 * it. Rejects with `ApiRefusal` or `NoAnswer`.
 */
export type Send = <T>(method: Method, path: string, call?: Call) => Promise<T>;

const LIMIT_MS = 60_000;

export function createTransport({ baseUrl, apiKey, ...options }: ClientOptions): Send {
  return async <T>(method: Method, path: string, call: Call = {}): Promise<T> => {
    const limit = AbortSignal.timeout(call.limitMs ?? options.limitMs ?? LIMIT_MS);
    const signal = call.signal === undefined ? limit : AbortSignal.any([limit, call.signal]);
    const body = call.body === undefined ? {} : { body: JSON.stringify(call.body) };
    const headers = { "x-api-key": apiKey, ...headersOf(call) };
    const url = urlOf(baseUrl, path, call.query);
    const response = await fetch(url, { method, headers, signal, ...body }).catch((cause) => {
      call.signal?.throwIfAborted();
      throw new NoAnswer(`${method} ${path}: the API at ${baseUrl} did not answer`, { cause });
    });
    const text = await response.text().catch((cause: unknown) => {
      call.signal?.throwIfAborted();
      throw new NoAnswer(`${method} ${path}: the answer of ${baseUrl} broke off`, { cause });
    });
    const answer = jsonIn(text);
    if (!response.ok) throw new ApiRefusal(response.status, answer, response.headers);
    if (response.status === 202 && call.prefer === undefined)
      throw new NoAnswer(
        `${method} ${path}: ${baseUrl} answered with an operation, not its result`,
      );
    if (answer === undefined)
      throw new NoAnswer(`${method} ${path}: the answer of ${baseUrl} is no JSON`);
    return answer as T;
  };
}

/** A path of the API whose values are encoded: path`/v1/hosts/${id}`. */
export function path(texts: TemplateStringsArray, ...values: (string | number)[]): string {
  return String.raw({ raw: texts }, ...values.map((value) => encodeURIComponent(value)));
}

/** Undefined for any other text: a balancer may answer in the place of the API. */
function jsonIn(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function urlOf(baseUrl: string, path: string, query: Query = {}): URL {
  const url = new URL(path, baseUrl);
  for (const [name, value] of Object.entries(query))
    if (value !== undefined) url.searchParams.set(name, String(value));
  return url;
}

function headersOf({ body, idempotencyKey, prefer, waitSeconds }: Call): Record<string, string> {
  const wait = waitSeconds === undefined ? [] : [`wait=${waitSeconds}`];
  const preferences = [...(prefer === undefined ? [] : [prefer]), ...wait];
  return {
    ...(body === undefined ? {} : { "content-type": "application/json" }),
    ...(idempotencyKey === undefined ? {} : { "idempotency-key": idempotencyKey }),
    ...(preferences.length === 0 ? {} : { prefer: preferences.join(", ") }),
  };
}
