/**
 * The API that an operator's command calls: the one in HOPX_BASE_URL and HOPX_API_KEY, otherwise
 * that of the local fleet.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type Client, createClient } from "@torpor/client";

const CALL_LIMIT_MS = 30_000;

export async function openApi(root: string): Promise<Client> {
  return createClient({ ...(await credentials(root)), limitMs: CALL_LIMIT_MS });
}

async function credentials(root: string): Promise<{ baseUrl: string; apiKey: string }> {
  const { HOPX_BASE_URL: baseUrl, HOPX_API_KEY: apiKey } = process.env;
  if (baseUrl && apiKey) return { baseUrl, apiKey };
  const text = await readFile(join(root, ".torpor/credentials.json"), "utf8").catch(
    () => undefined,
  );
  if (text === undefined)
    throw new Error(
      "there is no fleet here: start one with ./torpor up, or set HOPX_BASE_URL and HOPX_API_KEY",
    );
  const { url, ...rest } = JSON.parse(text) as { url: string; apiKey: string };
  return { baseUrl: url, apiKey: rest.apiKey };
}
