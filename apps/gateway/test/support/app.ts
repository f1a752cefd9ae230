/** The public API, on a database that the test supplies. */
import type { FastifyInstance } from "fastify";
import { createEnvelope } from "@torpor/service";
import { pino } from "pino";
import { buildApp } from "../../src/app.ts";
import { DEFAULT_LIMITS, type Dependencies } from "../../src/deps.ts";
import { fleetIdentity } from "../../src/fleet-identity.ts";
import { createPreviewLinks } from "../../src/preview-links.ts";
import { createGuesses } from "../../src/guesses.ts";
import { createProxies } from "../../src/proxies.ts";
import { createSandboxEvents } from "../../src/sandbox-events.ts";
import { createTokens } from "../../src/tokens.ts";
import { UnderWay } from "../../src/under-way.ts";

export function appWith(given: Pick<Dependencies, "db"> & Partial<Dependencies>): FastifyInstance {
  return buildApp({
    log: pino({ level: "silent" }),
    tokens: createTokens("x".repeat(32), { isGood: async () => true }),
    previewLinks: createPreviewLinks(["x".repeat(32)], { isGood: async () => true }),
    envelope: createEnvelope(undefined),
    events: createSandboxEvents(),
    publishCommitted: async () => {},
    requestPlacement: async () => ({ kind: "no_answer", cause: undefined }),
    edge: {
      publicHost: () => "http://127.64.0.1:7777",
      previewOrigin: (_, port) => `http://127.64.0.1:${port}`,
    },
    limiter: { take: async () => ({}) },
    audit: { note: async () => {} },
    fleetIdentity: fleetIdentity("tls://127.0.0.1:4222", null, undefined),
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
    ...given,
  });
}
