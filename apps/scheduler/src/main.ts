/** Composition root of the scheduler process. */
import { busAccess, connectBus, serversIn } from "@torpor/bus";
import { databaseProblem, openDatabase } from "@torpor/db";
import { certificateProblems, openTls } from "@torpor/identity";
import {
  configured,
  createLogger,
  envelopeFrom,
  runService,
  startHealthServer,
} from "@torpor/service";
import { configFrom } from "./config.ts";
import { HostNetworks } from "./hosts/host-networks.ts";
import { RESTORE_BUS } from "./restore-bus.ts";
import { startWorker } from "./worker.ts";

const config = configured(() => configFrom(process.env));
const log = createLogger({ name: "scheduler", level: config.LOG_LEVEL });
/** The smallest cluster that survives the loss of a server. */
const CLUSTER = 3;
const UNREACHABLE =
  "the database cannot be reached: start it, or correct DATABASE_URL; it is tried again until it answers";

await runService(log, { graceMs: config.SHUTDOWN_GRACE_MS }, async (signal, onClose) => {
  const database = openDatabase(config.DATABASE_URL, {
    applicationName: "torpor-scheduler",
    maxConnections: config.DATABASE_POOL_MAX,
  });
  onClose({ what: "database", close: () => database.close() });
  // Not awaited: the database may be started later.
  void databaseProblem(database.db).then((problem) => {
    if (problem !== undefined) log.error({ problem }, UNREACHABLE);
  });
  const envelope = envelopeFrom(config.ENV_KEY_FILE, config.ENV_ACCEPTED_KEY_FILES);
  if (envelope.keyId === undefined)
    log.warn(
      "environment variables of sandboxes are stored in plain text: set ENV_KEY_FILE to encrypt them",
    );
  // The bus reads the files at each connection. `openTls` logs when they are unusable, or expire.
  const tls = await openTls(config, { signal, log });
  const bus = await connectBus({ name: "torpor-scheduler", ...busAccess(config) });
  onClose({ what: "bus", close: () => bus.close() });
  const worker = await startWorker({
    db: database.db,
    bus,
    log,
    signal,
    replicas: config.NATS_REPLICAS ?? (serversIn(config.NATS_URL).length < CLUSTER ? 1 : CLUSTER),
    hostTerms: { leaseMs: config.LEASE_MS, lossMarginMs: config.HOST_LOSS_MARGIN_MS },
    hostNetworks: new HostNetworks(config.HOST_NETWORKS),
    hostRules: { admission: config.HOST_ADMISSION, tls: config.HOST_TLS },
    envelope,
    placement: { policy: config.PLACEMENT_POLICY, vcpuOvercommit: config.VCPU_OVERCOMMIT },
  });
  onClose({ what: "loops", close: () => worker.ended });
  // All loops read the database, and succeed only with it.
  const hasDatabase = () =>
    [...worker.reconcilers.values()].some((reconciler) => reconciler.last()?.error === undefined);
  const hasStreams = () => worker.reconcilers.get(RESTORE_BUS)?.last()?.error === undefined;
  const health = await startHealthServer(
    { host: config.HEALTH_HOST, port: config.HEALTH_PORT },
    () => ({
      ok: bus.isConnected() && hasDatabase() && hasStreams(),
      role: "scheduler",
      database: hasDatabase() ? "connected" : "unreachable",
      bus: bus.isConnected() ? "connected" : "disconnected",
      streams: hasStreams() ? "there" : "missing",
      problems: [...worker.problems(), ...certificateProblems(tls?.certificate)],
      reconcilers: Object.fromEntries(
        [...worker.reconcilers].map(([name, reconciler]) => [name, reconciler.last()]),
      ),
    }),
  );
  onClose({ what: "health", close: () => health.close() });
  log.info({ healthPort: health.port }, "scheduler started");
});
