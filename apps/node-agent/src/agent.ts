/** The node-agent without its process: supervisor, bus loops and data plane on a given driver. */
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { type Bus, consume } from "@torpor/bus";
import {
  decoder,
  hostCommands,
  ReceivedCommand,
  type RegisterRequest,
  type SandboxId,
  type VmCommand,
} from "@torpor/contracts";
import type { FleetTls } from "@torpor/identity";
import type { Logger } from "@torpor/service";
import { type NodeAgentConfig, labelsOf } from "./config.ts";
import type { Driver } from "./drivers/driver.ts";
import { FenceFiles } from "./fence/files.ts";
import { freeBytes } from "./host/files.ts";
import type { Isolation } from "./host/isolation.ts";
import { type Image, listFormerImages, listImages } from "./images/images.ts";
import { ensureGolden, findGolden } from "./images/golden.ts";
import { httpGuest } from "./lifecycle/guest.ts";
import { VmStore } from "./lifecycle/vm-store.ts";
import { Supervisor } from "./lifecycle/supervisor.ts";
import { CLOSING } from "./lifecycle/keyed-queue.ts";
import { Activity } from "./data-plane/activity.ts";
import { commandKeyIn } from "./control/command-key.ts";
import { commitAsker } from "./control/request-commit.ts";
import { createDataPlane } from "./data-plane/data-plane.ts";
import { FenceLink } from "./control/fence-link.ts";
import { HostCertificate } from "./control/host-certificate.ts";
import { heartbeat, isOpen, keepLease, type Membership } from "./control/membership.ts";
import { garbageAsker } from "./control/garbage.ts";
import { Reporter } from "./control/reporter.ts";
import { HostWork } from "./control/work.ts";
import { SnapshotServer } from "./data-plane/snapshot-server.ts";
import { ticketKeyIn } from "./control/ticket-key.ts";
import type { Blobs } from "./store/blobs.ts";
import { ChunkStore } from "./store/chunk-store.ts";
import { NO_SNAPSHOT_STORE } from "./store/no-store.ts";
import { peerSource } from "./store/peer.ts";
import { keepSwept } from "./store/sweep.ts";

const decodeCommand = decoder(ReceivedCommand);
const COMMANDS_AT_ONCE = 64;
/** Part of the grace, for closing what is left after the last responses. */
const CLOSE_MS = 1_500;
const AGENT_VERSION = "0.1.0";

export interface AgentOptions {
  config: NodeAgentConfig;
  driver: Driver;
  isolation: Isolation;
  /** Store of snapshots; undefined: snapshots stay on this host only. */
  blobs: Blobs | undefined;
  /**
   * Shared key of fleets with programs of 0.1.0: accepted in place of tickets, and shown to hosts
   * that know no tickets.
   */
  hostKey: string | undefined;
  /** TLS of the fleet; undefined: the data plane is plain HTTP. */
  tls: FleetTls | undefined;
  bus: Bus;
  signal: AbortSignal;
  log: Logger;
}

export interface Agent {
  supervisor: Supervisor;
  membership: Membership;
  fence: FenceLink;
  work: HostWork;
  /** Certificate of this host; undefined if the fleet has no TLS. */
  certificate: HostCertificate | undefined;
  close(): Promise<void>;
}

export async function startAgent(options: AgentOptions): Promise<Agent> {
  const { config, driver, isolation, blobs, hostKey, tls, bus, signal, log } = options;
  const { uid } = isolation;
  const guest = httpGuest(driver);
  const images = await listImages(config.IMAGES_DIR);
  const say = (line: string) => log.info({ line }, "preparing");
  for (const image of images)
    await ensureGolden(image, {
      driver,
      guest,
      uid,
      scratchDir: join(config.IMAGES_DIR, ".scratch"),
      say,
    });
  const reporter = new Reporter(log);
  const work = new HostWork(() => reporter.backlog());
  const activity = new Activity();
  const fence = new FenceLink(new FenceFiles(config.DATA_DIR));
  const membership: Membership = { isRegistered: false };
  await fence.open();
  const commandKey = await commandKeyIn(config.DATA_DIR);
  const supervisor = new Supervisor(
    {
      hostId: config.HOST_ID,
      startsAtOnce: config.STARTS_AT_ONCE,
      warm: { max: config.WARM_POOL_MAX, memoryMib: config.CAPACITY_MEMORY_MIB },
      isOpen: () => isOpen(membership, fence),
      store: new VmStore(config.DATA_DIR),
      driver,
      isolation,
      guest,
      snapshots: blobs === undefined ? NO_SNAPSHOT_STORE : new ChunkStore(blobs),
      peer: (sandboxId, reference) => peerSource(sandboxId, reference, { hostKey, tls }),
      activity,
      fence,
      commandKey: commandKey.privateKey,
      imagesDir: config.IMAGES_DIR,
      commit: commitAsker(bus, config.HOST_ID),
      uid,
      log,
    },
    (seen) => reporter.report(seen),
  );
  await supervisor.adopt();
  const snapshots = new SnapshotServer((...asked) => supervisor.offer(...asked));
  const findRoute = (sandboxId: SandboxId, epoch: number) => supervisor.route(sandboxId, epoch);
  const ticketKey = await ticketKeyIn(config.DATA_DIR);
  const dataPlane = createDataPlane({
    lock: { ticketKey, hostKey, tls },
    findRoute,
    activity,
    snapshots,
  });
  await new Promise<void>((resolve, reject) => {
    dataPlane.server.once("error", reject);
    dataPlane.server.listen(config.DATA_PLANE_PORT, config.DATA_PLANE_HOST, resolve);
  });
  const { port } = dataPlane.server.address() as AddressInfo;
  const dataPlaneUrl =
    config.DATA_PLANE_URL ??
    `${tls === undefined ? "http" : "https"}://${config.DATA_PLANE_HOST}:${port}`;
  const request = await registration(
    config,
    driver,
    { dataPlaneUrl, ticketKey, commandKey: commandKey.publicKey },
    [
      ...(await restorableImages(await listFormerImages(config.IMAGES_DIR, images), driver)),
      // Linked images come last: an older control plane makes its template from the last image of a
      // name.
      ...images,
    ],
  );
  const diskFreeMib = async () => {
    try {
      return Math.floor((await freeBytes(config.DATA_DIR)) / 1024 ** 2);
    } catch (err) {
      log.error(
        { err, dir: config.DATA_DIR },
        "free disk space could not be read; reported as none",
      );
      return 0;
    }
  };
  const certificate =
    tls === undefined
      ? undefined
      : new HostCertificate({ hostId: config.HOST_ID, tls, bus, signal, log });
  const loops = [
    certificate?.run() ?? Promise.resolve(),
    reporter.run(bus, signal),
    keepLease(bus, request, membership, fence, signal, log),
    fence.requestThaws(bus, config.HOST_ID, signal, log),
    heartbeat(
      bus,
      config.HOST_ID,
      () => ({
        inventory: supervisor.inventory(),
        diskFreeMib: diskFreeMib(),
        starts: supervisor.starts(),
      }),
      membership,
      signal,
    ),
    supervisor.watch(),
    blobs === undefined ? Promise.resolve() : keepSwept(blobs, sweepOptions(options)),
    consume(bus, {
      consumer: hostCommands(config.HOST_ID),
      decode: decodeCommand,
      handle: async (command) => {
        if (command.hostId !== config.HOST_ID) return "reject";
        // The kind may be unknown: the supervisor then fails the operation.
        const accepted = await supervisor.submit(command as VmCommand);
        log.info(
          {
            sandboxId: command.spec.sandboxId,
            kind: command.kind,
            epoch: command.epoch,
            opSeq: command.opSeq,
            accepted,
          },
          "command",
        );
        return accepted === CLOSING ? { kind: "retry", delayMs: 0 } : "ack";
      },
      concurrency: COMMANDS_AT_ONCE,
      noteReadable: (isReadable) => work.noteCommands(isReadable),
      signal,
      log,
    }),
  ];
  return {
    supervisor,
    membership,
    fence,
    work,
    certificate,
    close: async () => {
      const graceMs = config.SHUTDOWN_GRACE_MS;
      const [isOver] = await Promise.all([
        // An operation is continued by the next process; an answer of a guest would be lost.
        supervisor.close(graceMs / 2),
        dataPlane.drain(Math.max(0, graceMs - CLOSE_MS)),
      ]);
      if (!isOver)
        log.info("stopped with an operation or a copy open; the next process continues it");
      await Promise.allSettled(loops);
    },
  };
}

const sweepOptions = ({ config, bus, signal, log }: AgentOptions) => ({
  everyMs: config.SNAPSHOT_SWEEP_SECONDS * 1000,
  graceMs: config.SNAPSHOT_GRACE_SECONDS * 1000,
  ask: garbageAsker(bus, config.HOST_ID),
  signal,
  log,
});

/** Images with a golden snapshot for this driver. */
async function restorableImages(images: Image[], driver: Driver): Promise<Image[]> {
  const golden = await Promise.all(
    images.map(async (image) => (await findGolden(image, driver)) !== undefined),
  );
  return images.filter((_, at) => golden[at]);
}

async function registration(
  config: NodeAgentConfig,
  driver: Driver,
  keys: Pick<RegisterRequest, "dataPlaneUrl" | "ticketKey" | "commandKey">,
  images: Image[],
): Promise<RegisterRequest> {
  return {
    type: "register",
    version: 1,
    hostId: config.HOST_ID,
    region: config.REGION,
    ...keys,
    capacity: {
      vcpu: config.CAPACITY_VCPU,
      memoryMib: config.CAPACITY_MEMORY_MIB,
      diskMib: config.CAPACITY_DISK_MIB,
    },
    labels: labelsOf(config),
    driver: driver.name,
    driverFingerprint: await driver.fingerprint(),
    restorableFingerprints: await driver.restorable(),
    agentVersion: AGENT_VERSION,
    images: images.map(
      ({ templateName, sha256, displayName, description, language, category, defaults }) => ({
        templateName,
        sha256,
        displayName,
        description,
        language,
        category,
        defaults,
      }),
    ),
  };
}
