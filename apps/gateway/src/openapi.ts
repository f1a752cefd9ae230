import { openDatabase } from "@torpor/db";
import { createEnvelope } from "@torpor/service";
import { pino } from "pino";
import { buildApp } from "./app.ts";
import { DEFAULT_LIMITS } from "./deps.ts";
import { createSandboxEvents } from "./sandbox-events.ts";
import { createTokens } from "./tokens.ts";

/** The description of the API as JSON text, generated from the routes' schemas. It connects to nothing. */
export async function openApiDocument(): Promise<string> {
  // Connections are made on first use, and a description is none.
  const database = openDatabase("postgres://127.0.0.1/unused");
  const app = buildApp({
    db: database.db,
    log: pino({ level: "silent" }),
    tokens: createTokens("used for no token at all, only here", { isGood: async () => false }),
    envelope: createEnvelope(undefined),
    events: createSandboxEvents(),
    publishCommitted: async () => {},
    askPlacement: async () => ({ kind: "no_answer", cause: undefined }),
    edge: { serve: async () => {}, publicHost: () => "" },
    limiter: { take: async () => ({}) },
    audit: { note: async () => {} },
    region: "local",
    busConnected: () => false,
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
