/** Composition root of the gateway process. */
import { ask, type Bus, connectBus, subscribeCore } from "@torpor/bus";
import { decoder, patterns, PlacementReply, SandboxEventMessage, subjects } from "@torpor/contracts";
import { databaseProblem, forEveryOrganization, openDatabase } from "@torpor/db";
import { publishCommitted } from "@torpor/outbox";
import {
  configured,
  createLogger,
  envelopeFrom,
  readSecret,
  readSecrets,
  runService,
  startHealthServer,
  startReconciler,
} from "@torpor/service";
import { buildApp } from "./app.ts";
import { createAuditLog } from "./audit.ts";
import { createApiKeys } from "./auth.ts";
import { configFrom } from "./config.ts";
import { DEFAULT_LIMITS } from "./deps.ts";
import { drain } from "./drain.ts";
import { createEdge } from "./edge/create-edge.ts";
import { Waker } from "./edge/wake.ts";
import { healthReport } from "./health-report.ts";
import { createRateLimiter } from "./rate-limit.ts";
import { createSandboxEvents } from "./sandbox-events.ts";
import { createTokens } from "./tokens.ts";

const config = configured(() => configFrom(process.env));
const log = createLogger({ name: "gateway", level: config.LOG_LEVEL });
const decodeEvent = decoder(SandboxEventMessage);
const decodePlacement = decoder(PlacementReply);
const ASK_LIMIT_MS = 2_000;
/** Of the grace: for the last answers, and for closing what is left. */
const CLOSE_MS = 1_500;
const EDGE_EVERY_MS = 2_000;
const UNREACHABLE = "the database cannot be reached: start it, or correct DATABASE_URL; it is tried again until it answers";

await runService(log, { graceMs: config.DRAIN_DELAY_MS + config.SHUTDOWN_GRACE_MS }, async (signal, onClose) => {
  const database = openDatabase(config.DATABASE_URL, { applicationName: "torpor-gateway", maxConnections: config.DATABASE_POOL_MAX });
  const db = forEveryOrganization(database.db);
  onClose({ what: "database", close: () => database.close() });
  // Not waited for: it may be started later.
  void databaseProblem(db).then((problem) => {
    if (problem !== undefined) log.error({ problem }, UNREACHABLE);
  });

  const apiKeys = createApiKeys({ db, log });
  const accepted = readSecrets(config.TOKEN_ACCEPTED_SECRET_FILES);
  const tokens = createTokens(readSecret(config.TOKEN_SECRET_FILE), apiKeys, accepted);
  const envelope = envelopeFrom(config.ENV_KEY_FILE);
  if (envelope.keyId === undefined)
    log.warn("environment variables of sandboxes are stored in plain text: set ENV_KEY_FILE to encrypt them");
  const events = createSandboxEvents();
  const password = config.NATS_PASSWORD_FILE === undefined ? undefined : readSecret(config.NATS_PASSWORD_FILE);
  let bus: Bus | undefined;
  // In the background: intents are accepted while NATS is away.
  void connectBus({ url: config.NATS_URL, name: "torpor-gateway", user: config.NATS_USER, password })
    .then((connected) => {
      bus = connected;
      subscribeCore(connected, { pattern: patterns.events, decode: decodeEvent, handle: events.emit, log });
    })
    .catch((err: unknown) => log.error({ err }, "the bus refused the connection: check NATS_URL, NATS_USER and NATS_PASSWORD_FILE"));
  onClose({ what: "bus", close: async () => bus?.close() });

  const audit = createAuditLog({ db, log });
  onClose({ what: "audit log", close: () => audit.close() });

  const giveUp = new AbortController();
  const shared = {
    db,
    log,
    audit,
    events,
    // Not waited for: the scheduler's relay is the safety net.
    publishCommitted: async (ids: number[]) => void publishCommitted({ db, log, bus }, ids),
    draining: signal,
    stopping: giveUp.signal,
    busConnected: () => bus?.isConnected() === true,
    limits: { ...DEFAULT_LIMITS, autoResumeWaitMs: config.AUTO_RESUME_WAIT_MS },
    tokens,
    envelope,
  };
  const edge = await createEdge(config, {
    ...shared,
    apiKeys,
    hostKey: readSecret(config.HOST_DATA_KEY_FILE),
    waker: new Waker(shared),
    limiter: createRateLimiter(config.EDGE_RATE_LIMIT_PER_MINUTE),
  });
  onClose({ what: "edge", close: () => edge.close() });
  const rounds = startReconciler({ name: "edge", everyMs: EDGE_EVERY_MS, run: () => edge.reconcile(), signal, log });
  onClose({ what: "edge rounds", close: () => rounds.ended });
  events.watchAll((event) => {
    if (event.from !== event.to) rounds.kick();
  });

  const app = buildApp({
    ...shared,
    askPlacement: async (question) => {
      if (bus === undefined) return { kind: "no_answer", cause: new Error("the bus has not been reached yet") };
      return await ask(bus, subjects.controlAsk("placement"), question, { timeoutMs: ASK_LIMIT_MS, decode: decodePlacement });
    },
    edge,
    limiter: createRateLimiter(config.RATE_LIMIT_PER_MINUTE),
    region: config.REGION,
  });
  const health = await startHealthServer({ host: config.HEALTH_HOST, port: config.HEALTH_PORT }, async () => {
    const report = await healthReport(shared);
    return { ok: report.status !== "draining", role: "gateway", ...report };
  });
  onClose({ what: "health", close: () => health.close() });
  const answerMs = Math.max(0, config.SHUTDOWN_GRACE_MS - CLOSE_MS);
  onClose({ what: "http", close: () => drain({ app, edge, giveUp, answerMs, delayMs: config.DRAIN_DELAY_MS }) });
  const listen = { host: config.LISTEN_HOST, port: config.LISTEN_PORT, reusePort: config.LISTEN_REUSE_PORT };
  const address = await app.listen(listen);
  log.info({ address, domain: config.PUBLIC_DOMAIN, edgePort: config.EDGE_PORT }, "gateway started");
});
