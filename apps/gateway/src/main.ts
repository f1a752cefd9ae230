/** Composition root of the gateway process. */
import {
  request,
  type Bus,
  busAccess,
  connectBus,
  maxMessageBytes,
  subscribeCore,
} from "@torpor/bus";
import {
  decoder,
  patterns,
  PlacementReply,
  SandboxEventMessage,
  subjects,
} from "@torpor/contracts";
import {
  databaseProblem,
  findEndedCredentials,
  forEveryOrganization,
  openDatabase,
  type OutboxRow,
  pingDatabase,
} from "@torpor/db";
import { certificateProblems, openTls } from "@torpor/identity";
import { Publisher } from "@torpor/outbox";
import {
  configured,
  createLogger,
  envelopeFrom,
  findFailingRounds,
  readSecret,
  readSecrets,
  runService,
  startHealthServer,
  startReconciler,
} from "@torpor/service";
import { handleRenewals } from "./hosts/handle-renewals.ts";
import { buildApp } from "./http/app.ts";
import { createAuditLog } from "./audit.ts";
import { createApiKeys } from "./auth/auth.ts";
import { type GatewayConfig, configFrom } from "./config.ts";
import { ConnectionLimits } from "./http/connection-limits.ts";
import { createDatabaseTurns, createHealthPing } from "./database-turns.ts";
import { DEFAULT_LIMITS } from "./deps.ts";
import { drain } from "./drain.ts";
import { createEdge } from "./edge/create-edge.ts";
import { OpenStreams } from "./edge/open-streams.ts";
import { Waker } from "./edge/wake.ts";
import { type FleetIdentity, fleetIdentity } from "./hosts/fleet-identity.ts";
import { createGuesses } from "./auth/guesses.ts";
import { healthReport } from "./health-report.ts";
import { openFileLimit, shareOpenFiles } from "./open-files.ts";
import { createPreviewLinks } from "./auth/preview-links.ts";
import { createProxies } from "./http/proxies.ts";
import { createRateLimiter } from "./auth/rate-limit.ts";
import { createSandboxEvents } from "./operations/sandbox-events.ts";
import { createTokens } from "./auth/tokens.ts";
import { UnderWay } from "./operations/under-way.ts";

const config = configured(() => configFrom(process.env));
const files = configured(() => shareOpenFiles(config, openFileLimit()));
const log = createLogger({ name: "gateway", level: config.LOG_LEVEL });
const decodeEvent = decoder(SandboxEventMessage);
const decodePlacement = decoder(PlacementReply);
const REQUEST_LIMIT_MS = 2_000;
/** Part of the grace, for the last responses and for closing what is left. */
const CLOSE_MS = 1_500;
const EDGE_EVERY_MS = 2_000;
/**
 * A stream outlives its credential by at most twice this interval and the 5 s for which keys are
 * cached.
 */
const STREAMS_EVERY_MS = 2_000;
const UNREACHABLE =
  "the database cannot be reached: start it, or correct DATABASE_URL; it is tried again until it answers";

await runService(
  log,
  { graceMs: config.DRAIN_DELAY_MS + config.SHUTDOWN_GRACE_MS },
  async (signal, onClose) => {
    const database = openDatabase(config.DATABASE_URL, {
      applicationName: "torpor-gateway",
      maxConnections: config.DATABASE_POOL_MAX,
      takeTurn: createDatabaseTurns(config.DATABASE_POOL_MAX),
    });
    const db = forEveryOrganization(database.db);
    onClose({ what: "database", close: () => database.close() });
    // Not awaited: the database may be started later.
    void databaseProblem(db).then((problem) => {
      if (problem !== undefined) log.error({ problem }, UNREACHABLE);
    });

    const tls = await openTls(config, { signal, log });
    const guesses = createGuesses(config.GUESSES_PER_MINUTE, "API keys");
    const apiKeys = createApiKeys({ db, log, guesses });
    const tokenSecret = readSecret(config.TOKEN_SECRET_FILE);
    const accepted = readSecrets(config.TOKEN_ACCEPTED_SECRET_FILES);
    const tokens = createTokens(tokenSecret, apiKeys, accepted);
    const previewLinks = createPreviewLinks([tokenSecret, ...accepted], apiKeys);
    const envelope = envelopeFrom(config.ENV_KEY_FILE);
    if (envelope.keyId === undefined)
      log.warn(
        "environment variables of sandboxes are stored in plain text: set ENV_KEY_FILE to encrypt them",
      );
    const events = createSandboxEvents();
    let bus: Bus | undefined;
    let publisher: Publisher | undefined;
    let stopRenewing: (() => Promise<void>) | undefined;
    const fleetIdentity = await identityFrom(config);
    // In the background: intents are accepted while NATS is away.
    void connectBus({ name: "torpor-gateway", ...busAccess(config) })
      .then((connected) => {
        bus = connected;
        publisher = new Publisher({ db, bus, log });
        subscribeCore(connected, {
          pattern: patterns.events,
          decode: decodeEvent,
          handle: events.emit,
          log,
        });
        stopRenewing = handleRenewals(connected, { db, fleetIdentity, log });
      })
      .catch((err: unknown) =>
        log.error(
          { err },
          "the bus refused the connection: check NATS_URL, and NATS_SEED_FILE or NATS_USER and NATS_PASSWORD_FILE",
        ),
      );
    onClose({
      what: "bus",
      close: async () => {
        await Promise.all([publisher?.idle(), stopRenewing?.()]);
        await bus?.close();
      },
    });

    const audit = createAuditLog({ db, log });
    onClose({ what: "audit log", close: () => audit.close() });

    const proxies = createProxies(config.TRUST_PROXY);
    const limitConnections = () =>
      new ConnectionLimits({ perAddress: config.CONNECTIONS_PER_ADDRESS, proxies, log });
    const giveUp = new AbortController();
    const shared = {
      db,
      log,
      audit,
      events,
      // Not awaited: the scheduler's relay is the safety net.
      publishCommitted: async (rows: OutboxRow[]) => void publisher?.publish(rows),
      draining: signal,
      stopping: giveUp.signal,
      busConnected: () => bus?.isConnected() === true,
      maxMessageBytes: () => bus && maxMessageBytes(bus),
      pingDatabase: createHealthPing(() => pingDatabase(db)),
      limits: { ...DEFAULT_LIMITS, autoResumeWaitMs: config.AUTO_RESUME_WAIT_MS },
      tokens,
      previewLinks,
      proxies,
      guesses,
      envelope,
    };
    const streams = new OpenStreams((shown) => findEndedCredentials(db, shown));
    const edge = await createEdge(config, files, {
      ...shared,
      apiKeys,
      streams,
      linkGuesses: createGuesses(config.GUESSES_PER_MINUTE, "links"),
      hostKeys: {
        tls,
        hostKey:
          config.HOST_DATA_KEY_FILE === undefined
            ? undefined
            : readSecret(config.HOST_DATA_KEY_FILE),
      },
      connections: limitConnections(),
      underWay: new UnderWay(config.EDGE_REQUESTS_AT_ONCE),
      waker: new Waker(shared),
      limiter: createRateLimiter(config.EDGE_RATE_LIMIT_PER_MINUTE),
    });
    onClose({ what: "edge", close: () => edge.close() });
    const rounds = startReconciler({
      name: "edge",
      everyMs: EDGE_EVERY_MS,
      run: () => edge.reconcile(),
      signal,
      log,
    });
    onClose({ what: "edge rounds", close: () => rounds.ended });
    // Runs until the last stream is cut, which is later than the process is asked to stop.
    const cut = new AbortController();
    const looks = startReconciler({
      name: "open streams",
      everyMs: STREAMS_EVERY_MS,
      run: () => streams.endOver(),
      signal: cut.signal,
      log,
    });
    onClose({ what: "looks at open streams", close: async () => (cut.abort(), await looks.ended) });
    events.watchAll((event) => {
      if (edge.hear(event)) rounds.kick();
    });

    const app = buildApp({
      ...shared,
      requestPlacement: async (question) => {
        if (bus === undefined)
          return { kind: "no_answer", cause: new Error("the bus has not been reached yet") };
        return await request(bus, subjects.controlRequest("placement"), question, {
          timeoutMs: REQUEST_LIMIT_MS,
          decode: decodePlacement,
        });
      },
      edge,
      connections: limitConnections(),
      underWay: new UnderWay(config.REQUESTS_AT_ONCE_PER_KEY),
      limiter: createRateLimiter(config.RATE_LIMIT_PER_MINUTE),
      region: config.REGION,
      fleetIdentity,
    });
    app.server.maxConnections = files.connections;
    const health = await startHealthServer(
      { host: config.HEALTH_HOST, port: config.HEALTH_PORT },
      async () => {
        const report = await healthReport(shared);
        const failing = findFailingRounds(
          new Map([
            ["edge", rounds],
            ["open streams", looks],
          ]),
        );
        const problems = [...failing, ...certificateProblems(tls?.certificate)];
        return {
          ok: report.status !== "draining",
          role: "gateway",
          ...report,
          edge: rounds.last(),
          problems,
        };
      },
    );
    onClose({ what: "health", close: () => health.close() });
    const answerMs = Math.max(0, config.SHUTDOWN_GRACE_MS - CLOSE_MS);
    onClose({
      what: "http",
      close: () => drain({ app, edge, giveUp, answerMs, delayMs: config.DRAIN_DELAY_MS }),
    });
    const listen = {
      host: config.LISTEN_HOST,
      port: config.LISTEN_PORT,
      reusePort: config.LISTEN_REUSE_PORT,
    };
    const address = await app.listen(listen);
    log.info(
      { address, domain: config.PUBLIC_DOMAIN, edgePort: config.EDGE_PORT },
      "gateway started",
    );
  },
);

async function identityFrom(config: GatewayConfig): Promise<FleetIdentity> {
  const {
    FLEET_CA_CERT_FILE: certFile,
    FLEET_CA_KEY_FILE: keyFile,
    HOST_CERTIFICATE_DAYS: days,
    TLS_CA_FILE: caFile,
  } = config;
  const natsUrl = config.HOST_NATS_URL ?? config.NATS_URL;
  const trusted = caFile ?? certFile;
  const authorities = trusted === undefined ? null : readSecret(trusted);
  if (certFile === undefined || keyFile === undefined)
    return fleetIdentity(natsUrl, authorities, undefined);
  const { Authority } = await import("@torpor/identity/authority");
  const authority = await Authority.open({
    certificatePem: readSecret(certFile),
    keyPem: readSecret(keyFile),
  });
  return fleetIdentity(natsUrl, authorities, { authority, days });
}
