/**
 * The callback of POST /execute/async.
 *
 * There are two readings of the signature: over the raw body, and over the timestamp and the body
 * joined. This file signs the raw body: the receiver checks exactly the bytes that arrive, and the
 * body contains the time.
 */
import { createHmac } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { invalidRequest } from "../errors.ts";
import { type Body, optionalString, stringField, stringMap } from "../fields.ts";

export interface Callback {
  url: string;
  headers: Record<string, string>;
  secret: string | undefined;
}

const MAX_HEADERS = 32;
const OWN_HEADERS = /^(host|content-length|content-type|transfer-encoding|connection|x-hopx-.*)$/i;
const ATTEMPT_LIMIT_MS = 10_000;
/** Delay before each attempt. */
const DELAYS_MS = [0, 1_000, 5_000, 30_000, 120_000];

export function callbackOf(body: Body): Callback {
  const url = stringField(body, "callback_url");
  const protocol = URL.canParse(url) ? new URL(url).protocol : "";
  if (protocol !== "http:" && protocol !== "https:")
    throw invalidRequest('"callback_url" must be an absolute http or https URL');
  const headers = stringMap(body, "callback_headers");
  const names = Object.keys(headers);
  if (names.length > MAX_HEADERS)
    throw invalidRequest(`"callback_headers" holds more than ${MAX_HEADERS} headers`);
  for (const name of names) {
    if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name))
      throw invalidRequest(
        `"callback_headers" holds ${JSON.stringify(name)}, which is no name of a header`,
      );
    if (OWN_HEADERS.test(name))
      throw invalidRequest(`"callback_headers.${name}" is set by the agent itself`);
    if (!/^[\t\x20-\x7e]*$/.test(headers[name] ?? ""))
      throw invalidRequest(`"callback_headers.${name}" must be printable ASCII`);
  }
  return { url, headers, secret: optionalString(body, "callback_signature_secret") };
}

/**
 * Sends the callback, with retries, until the receiver accepts or refuses it. Never rejects: a
 * failure can be reported only in the agent's log.
 */
export async function sendCallback(callback: Callback, payload: unknown): Promise<void> {
  const body = JSON.stringify(payload);
  let lastError = "";
  for (const delayMs of DELAYS_MS) {
    await sleep(delayMs, undefined, { ref: false });
    const outcome = await attempt(callback, body);
    if (outcome.kind === "taken") return;
    lastError = outcome.error;
    if (outcome.kind === "refused") break;
  }
  process.stderr.write(
    `callback to ${new URL(callback.url).host} was not accepted: ${lastError}\n`,
  );
}

type Attempt =
  | { kind: "taken" }
  /** Another attempt would be refused too. */
  | { kind: "refused"; error: string }
  | { kind: "failed"; error: string };

async function attempt(callback: Callback, body: string): Promise<Attempt> {
  try {
    const response = await fetch(callback.url, {
      method: "POST",
      headers: headersOf(callback, body),
      body,
      redirect: "manual",
      signal: AbortSignal.timeout(ATTEMPT_LIMIT_MS),
    });
    await response.body?.cancel();
    if (response.ok) return { kind: "taken" };
    const isWorthRepeating =
      response.status >= 500 || response.status === 408 || response.status === 429;
    const error = `status ${response.status}`;
    return isWorthRepeating ? { kind: "failed", error } : { kind: "refused", error };
  } catch (error) {
    return { kind: "failed", error: error instanceof Error ? error.message : String(error) };
  }
}

function headersOf({ headers, secret }: Callback, body: string): Record<string, string> {
  const signature =
    secret === undefined
      ? {}
      : { "X-HOPX-Signature": `sha256=${createHmac("sha256", secret).update(body).digest("hex")}` };
  return {
    ...headers,
    "Content-Type": "application/json",
    "X-HOPX-Timestamp": String(Math.floor(Date.now() / 1000)),
    ...signature,
  };
}
