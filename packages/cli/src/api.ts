/**
 * The API that an operator's command calls: the one in HOPX_BASE_URL and HOPX_API_KEY, otherwise
 * that of the local fleet.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";

const CALL_LIMIT_MS = 30_000;

type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

export interface Api {
  /** Returns the body of a 2xx; throws the API's error message for any other status. */
  call<T>(method: Method, path: string, body?: unknown): Promise<T>;
}

export async function openApi(root: string): Promise<Api> {
  const { url, apiKey } = await credentials(root);
  return {
    async call<T>(method: Method, path: string, body?: unknown): Promise<T> {
      const response = await fetch(new URL(path, url), {
        method,
        headers: {
          "x-api-key": apiKey,
          ...(body === undefined ? {} : { "content-type": "application/json" }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        signal: AbortSignal.timeout(CALL_LIMIT_MS),
      }).catch((cause: unknown) => {
        throw new Error(
          `the API at ${url} cannot be reached; ./torpor status shows whether the fleet is up`,
          { cause },
        );
      });
      const answer = (await response.json()) as T & { message?: string };
      if (!response.ok) throw new Error(answer.message ?? `the API answered ${response.status}`);
      return answer;
    },
  };
}

async function credentials(root: string): Promise<{ url: string; apiKey: string }> {
  const { HOPX_BASE_URL: url, HOPX_API_KEY: apiKey } = process.env;
  if (url && apiKey) return { url, apiKey };
  const text = await readFile(join(root, ".torpor/credentials.json"), "utf8").catch(
    () => undefined,
  );
  if (text === undefined)
    throw new Error(
      "there is no fleet here: start one with ./torpor up, or set HOPX_BASE_URL and HOPX_API_KEY",
    );
  return JSON.parse(text) as { url: string; apiKey: string };
}
