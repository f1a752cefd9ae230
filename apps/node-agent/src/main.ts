/** Composition root of the node-agent process. */
import { busAccess, connectBus } from "@torpor/bus";
import { openTls } from "@torpor/identity";
import {
  configured,
  createLogger,
  readSecret,
  runService,
  startHealthServer,
} from "@torpor/service";
import { type Agent, startAgent } from "./agent.ts";
import { configFrom } from "./config.ts";
import { chooseDriver } from "./drivers/choose.ts";
import { chooseIsolation } from "./host/isolation/choose.ts";
import { openBlobs, storeSettings } from "./store/choose.ts";

const config = configured(() => configFrom(process.env));
const settings = configured(() => storeSettings(config));
const log = createLogger({ name: "node-agent", level: config.LOG_LEVEL }).child({
  hostId: config.HOST_ID,
});

await runService(log, { graceMs: config.SHUTDOWN_GRACE_MS }, async (signal, onClose) => {
  const tls = await openTls(config, { signal, log });
  const name = `torpor-node-agent-${config.HOST_ID}`;
  const bus = await connectBus({ name, ...busAccess(config), hostId: config.HOST_ID });
  onClose({ what: "bus", close: () => bus.close() });
  const started: { agent?: Agent } = {};
  const health = await startHealthServer(
    { host: config.HEALTH_HOST, port: config.HEALTH_PORT },
    () => ({
      ok: started.agent?.membership.isRegistered === true,
      role: "node-agent",
      hostId: config.HOST_ID,
      bus: bus.isConnected() ? "connected" : "disconnected",
      registered: started.agent?.membership.isRegistered ?? false,
      fence: started.agent?.fence.state ?? null,
      problems: [
        ...(started.agent?.work.problems() ?? []),
        ...(started.agent?.certificate?.problems() ?? []),
      ],
      warmVms: started.agent?.supervisor.warmVms() ?? 0,
      vms: (started.agent?.supervisor.inventory() ?? []).map((seen) => ({
        sandboxId: seen.sandboxId,
        hostId: config.HOST_ID,
        epoch: seen.epoch,
        state: seen.state,
        busyWith: seen.busyWith,
        ...seen.vmm,
      })),
    }),
  );
  onClose({ what: "health", close: () => health.close() });
  const { isolation, close } = await chooseIsolation(config, log);
  onClose({ what: "isolation", close });
  const snapshotStore = await openBlobs(settings);
  if (snapshotStore.blobs === undefined)
    log.warn(
      "SNAPSHOT_STORE is not set: what is paused here is on this host's disk alone, and is lost with it (docs/snapshots.md)",
    );
  // Not awaited: the store may come up later, and running sandboxes must not wait for it.
  void snapshotStore.problem().then((problem) => {
    if (problem !== undefined)
      log.error(
        { problem },
        "snapshot store could not be used: snapshots stay on this host only until it can",
      );
  });
  started.agent = await startAgent({
    config,
    driver: await chooseDriver(config, isolation, log),
    isolation,
    blobs: snapshotStore.blobs,
    hostKey:
      config.HOST_DATA_KEY_FILE === undefined ? undefined : readSecret(config.HOST_DATA_KEY_FILE),
    tls,
    bus,
    signal,
    log,
  });
  onClose({ what: "agent", close: () => started.agent?.close() ?? Promise.resolve() });
  log.info({ healthPort: health.port }, "node-agent started");
});
