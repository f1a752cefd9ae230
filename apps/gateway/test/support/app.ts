/** The public API, on a database that the test supplies. */
import type { FastifyInstance } from "fastify";
import { createEnvelope } from "@torpor/service";
import { pino } from "pino";
import { buildApp } from "../../src/http/app.ts";
import { DEFAULT_LIMITS, type Dependencies } from "../../src/deps.ts";
import { fleetIdentity } from "../../src/hosts/fleet-identity.ts";
import { createPreviewLinks } from "../../src/auth/preview-links.ts";
import { createGuesses } from "../../src/auth/guesses.ts";
import { createProxies } from "../../src/http/proxies.ts";
import { createSandboxEvents } from "../../src/operations/sandbox-events.ts";
import { createTokens } from "../../src/auth/tokens.ts";
import { UnderWay } from "../../src/operations/under-way.ts";

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
