import { openDatabase } from "@torpor/db";
import { createEnvelope } from "@torpor/service";
import { pino } from "pino";
import { DEFAULT_LIMITS } from "../deps.ts";
import { fleetIdentity } from "../hosts/fleet-identity.ts";
import { createPreviewLinks } from "../auth/preview-links.ts";
import { createGuesses } from "../auth/guesses.ts";
import { createSandboxEvents } from "../operations/sandbox-events.ts";
import { createTokens } from "../auth/tokens.ts";
import { UnderWay } from "../operations/under-way.ts";
import { buildApp } from "./app.ts";
import { createProxies } from "./proxies.ts";

/**
 * The description of the API as JSON text, generated from the routes' schemas. Needs no database.
 */
export async function openApiDocument(): Promise<string> {
  // The pool connects on first use, and a description makes no query.
  const database = openDatabase("postgres://127.0.0.1/unused");
  const apiKeys = { isGood: async () => false };
  const app = buildApp({
    db: database.db,
    log: pino({ level: "silent" }),
    tokens: createTokens("used for no token at all, only here", apiKeys),
    previewLinks: createPreviewLinks(["used for no link at all, only here"], apiKeys),
    envelope: createEnvelope(undefined),
    events: createSandboxEvents(),
    publishCommitted: async () => {},
    requestPlacement: async () => ({ kind: "no_answer", cause: undefined }),
    edge: { publicHost: () => "", previewOrigin: () => "" },
    limiter: { take: async () => ({}) },
    audit: { note: async () => {} },
    fleetIdentity: fleetIdentity("", null, undefined),
    proxies: createProxies(""),
    guesses: createGuesses(0, "API keys"),
    underWay: new UnderWay(0),
    connections: { watch: () => {}, know: () => {} },
    region: "local",
    busConnected: () => false,
    maxMessageBytes: () => undefined,
    pingDatabase: async () => {},
    draining: new AbortController().signal,
    stopping: new AbortController().signal,
    limits: DEFAULT_LIMITS,
  });
  try {
    await app.ready();
    return `${JSON.stringify(app.swagger(), undefined, 2)}\n`;
  } finally {
    await app.close();
    await database.close();
  }
}
