/**
 * The scheduler without its process: consumers, request handlers, reconcilers and the outbox relay
 * over a given database and bus. Any number may run.
 */
import {
  handleRequests,
  type Bus,
  consume,
  ensureConsumer,
  ensureStreams,
  restoreMissing,
  subscribeCore,
} from "@torpor/bus";
import {
  bounded,
  CommitRequest,
  decodeBoundedHeartbeat,
  decodeBoundedObservation,
  decoder,
  GarbageRequest,
  hostCommands,
  type HostId,
  hostIdOf,
  Intent,
  InvalidMessageError,
  LeaseRequest,
  type OperationId,
  patterns,
  PlacementQuestion,
  RegisterRequest,
  SCHEDULER_INTENTS,
  SCHEDULER_OBSERVATIONS,
  subjects,
  ThawRequest,
} from "@torpor/contracts";
import {
  type Database,
  isRefusedValue,
  type LeaseRenewal,
  listHosts,
  measureOutbox,
  renewFreeLeases,
  summarizeRefused,
} from "@torpor/db";
import { Publisher, relayCommitted } from "@torpor/outbox";
import type { PlacementPolicy } from "@torpor/placement";
import {
  Batches,
  createEnvelope,
  type Envelope,
  findFailingRounds,
  type Logger,
  type Reconciler,
  startReconciler,
  withTimeLimit,
  type WorkProblem,
} from "@torpor/service";
import {
  handleCommit,
  handleGarbage,
  handleLease,
  handleRegister,
  handleThaw,
} from "./handle-host-requests.ts";
import { handlePlacement } from "./handle-placement.ts";
import { RequestHandling, noteHandling } from "./request-handling.ts";
import { beginOperation } from "./begin-operation.ts";
import { DEFAULT_HOST_TERMS, type Deps, type HostTerms } from "./deps.ts";
import type { HostRules } from "./admission.ts";
import { messageOf } from "./environment.ts";
import { HostNetworks } from "./host-networks.ts";
import { heartbeatHandler } from "./inventory/handle-heartbeats.ts";
import { Placer } from "./placer.ts";
import { DueRounds } from "./due-rounds.ts";
import { RECONCILERS } from "./reconcilers.ts";
import { applyObservation } from "./apply-observation.ts";
import { REFUSED_SHOWN_MS, WorkWatch } from "./work-watch.ts";

const decode = {
  intent: decoder(Intent),
  observation: decodeBoundedObservation,
  register: bounded(decoder(RegisterRequest)),
  lease: bounded(decoder(LeaseRequest)),
  commit: bounded(decoder(CommitRequest)),
  thaw: bounded(decoder(ThawRequest)),
  garbage: bounded(decoder(GarbageRequest)),
  heartbeat: decodeBoundedHeartbeat,
  placement: decoder(PlacementQuestion),
};
const QUEUE = "schedulers";
/**
 * Time limit for a message. Then the message is delivered again, whatever its decision waits for.
 */
const HANDLE_LIMIT_MS = 20_000;
/** Messages that are decided about at once; they share statements and commits. */
const AT_ONCE = 64;
/**
 * Fewer than the connections to the database: what holds up all messages of one host holds up no
 * other host's.
 */
const AT_ONCE_PER_HOST = 6;
const DRIVE_AFTER_MS = 500;
const RELAY_EVERY_MS = 250;
/**
 * Name of the loop that creates missing streams and consumers. What the loop cannot create keeps
 * messages from their readers, so the health report shows its failures.
 */
export const RESTORE_BUS = "restore-bus";
const RESTORE_BUS_EVERY_MS = 5_000;
const MEASURE_OUTBOX_EVERY_MS = 5_000;
/** Not much longer than a host waits for the reply to its registration; then it requests again. */
const PREPARE_LIMIT_MS = 3_000;

export interface Worker {
  reconcilers: ReadonlyMap<string, Reconciler>;
  /** Work of the fleet that has stopped, as of the newest rounds. */
  problems(): WorkProblem[];
  /** Resolves when every loop has ended. */
  ended: Promise<unknown>;
}

interface WorkerOptions {
  db: Database;
  bus: Bus;
  log: Logger;
  signal: AbortSignal;
  /** Replicas of each stream; default 1. */
  replicas?: number;
  hostTerms?: HostTerms;
  hostNetworks?: HostNetworks;
  /** Default: any host that the NATS servers let in may register. */
  hostRules?: HostRules;
  /** Without an envelope nothing is encrypted, and nothing that is encrypted can be read. */
  envelope?: Envelope;
  placement?: { policy?: PlacementPolicy; vcpuOvercommit?: number };
}

export async function startWorker(options: WorkerOptions): Promise<Worker> {
  const {
    db,
    bus,
    log,
    signal,
    replicas = 1,
    hostTerms = DEFAULT_HOST_TERMS,
    hostNetworks = new HostNetworks(""),
    hostRules = { admission: "optional", tls: "optional" },
    envelope = createEnvelope(undefined),
  } = options;
  const reveal = (payload: unknown) => messageOf(envelope, payload);
  await ensureStreams(bus, { replicas, signal });
  await ensureConsumer(bus, SCHEDULER_INTENTS, { signal });
  await ensureConsumer(bus, SCHEDULER_OBSERVATIONS, { signal });
  const { policy, vcpuOvercommit = 1 } = options.placement ?? {};
  const placer = new Placer(db, { policy });
  const publisher = new Publisher({ db, bus, log, reveal });
  const deps: Deps = {
    db,
    log,
    placer,
    vcpuOvercommit,
    driveAfterMs: DRIVE_AFTER_MS,
    hostTerms,
    hostNetworks,
    hostRules,
    envelope,
    publishCommitted: (rows) => publisher.publish(rows),
  };
  const goOn = (operationId: OperationId) => beginOperation(deps, operationId);
  consumeHeartbeats(deps, bus, goOn);
  const answers = new RequestHandling(() => handleHostRequests(deps, bus));
  const loops = [
    consume(bus, {
      consumer: SCHEDULER_INTENTS,
      decode: decode.intent,
      handle: async (intent) => {
        await withTimeLimit(
          beginOperation(deps, intent.operationId),
          HANDLE_LIMIT_MS,
          "the decision",
        );
        return "ack";
      },
      concurrency: AT_ONCE,
      signal,
      log,
    }),
    consume(bus, {
      consumer: SCHEDULER_OBSERVATIONS,
      decode: decode.observation,
      handle: async (seen, { subject }) => {
        if (hostIdOf(subject) !== seen.hostId) return "reject";
        try {
          await withTimeLimit(applyObservation(deps, seen, goOn), HANDLE_LIMIT_MS, "the decision");
        } catch (cause) {
          // Another try would fail alike, and hold up the observations of other hosts.
          if (isRefusedValue(cause))
            throw new InvalidMessageError(subject, ["the database refuses it"], { cause });
          throw cause;
        }
        return "ack";
      },
      concurrency: AT_ONCE,
      concurrencyPerLane: AT_ONCE_PER_HOST,
      laneOf: (subject) => hostIdOf(subject) ?? "",
      signal,
      log,
    }),
  ];
  const due = new DueRounds(db);
  const reconcilers = new Map(
    RECONCILERS.map((reconciler) => {
      const { name, everyMs, work } = reconciler;
      const always = () => reconciler.run(deps);
      const run = work === undefined ? always : due.only(work, always);
      return [name, startReconciler({ name, everyMs, run, signal, log })];
    }),
  );
  const relay = {
    name: "relay-outbox",
    everyMs: RELAY_EVERY_MS,
    run: due.only("unpublished", () => relayCommitted({ db, bus, log, reveal })),
  };
  const placesAtHome = placer.policy === "local-first";
  const note = noteHandling(answers, { db, bus, leaseMs: hostTerms.leaseMs, placesAtHome });
  const watch = new WorkWatch();
  const restore = {
    name: RESTORE_BUS,
    everyMs: RESTORE_BUS_EVERY_MS,
    run: () => restoreBus(deps, bus, watch, { replicas, signal, limitMs: PREPARE_LIMIT_MS }),
  };
  const measure = {
    name: "measure-outbox",
    everyMs: MEASURE_OUTBOX_EVERY_MS,
    run: async () => {
      const backlog = await measureOutbox(db);
      watch.noteOutbox(backlog);
      watch.noteRefused(await summarizeRefused(db, REFUSED_SHOWN_MS));
      return { waiting: backlog?.count ?? 0 };
    },
  };
  for (const loop of [relay, note, restore, measure])
    reconcilers.set(loop.name, startReconciler({ ...loop, signal, log }));
  const silent = aborted(signal).then(() => answers.end());
  const published = Promise.all(loops).then(() => publisher.idle());
  const problems = () => [...watch.problems(), ...findFailingRounds(reconcilers)];
  return {
    reconcilers,
    problems,
    ended: Promise.all([published, silent, ...[...reconcilers.values()].map((loop) => loop.ended)]),
  };
}

/** Creates what an operator has removed, or what a server that starts empty does not have. */
async function restoreBus(
  { db, log }: Deps,
  bus: Bus,
  watch: WorkWatch,
  options: Parameters<typeof restoreMissing>[2],
): Promise<Record<string, number>> {
  const hosts = await listHosts(db);
  const commands = hosts.map(({ id }) => hostCommands(id));
  const wanted = [SCHEDULER_INTENTS, SCHEDULER_OBSERVATIONS, ...commands];
  const { made, states } = await restoreMissing(bus, wanted, options);
  // A lost host takes no commands, and that is already reported.
  const present = hosts.filter(({ state }) => state !== "lost");
  watch.noteConsumers(
    states,
    present.map(({ id }) => id),
  );
  if (made.length > 0)
    log.error({ made }, "streams or consumers were missing; they were made again");
  return { made: made.length };
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (!signal.aborted)
    await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
}

const notGranted = (reason: string) => ({ granted: false, reason });
/** Leases that are renewed together, at most. */
const LEASES_AT_ONCE = 256;
/** Short enough: a host requests with two thirds of its lease left. */
const GATHER_LEASES_MS = 50;
const noLease = (reason: string) => ({ ...notGranted(reason), leaseMs: 0 });

/** Returns a function for each kind of request, which ends its handling. */
function handleHostRequests(deps: Deps, bus: Bus): (() => Promise<void>)[] {
  const { db, log, hostTerms } = deps;
  const leases = new Batches({
    run: (asked: LeaseRenewal[]) => renewFreeLeases(db, asked, hostTerms.leaseMs),
    maxItems: LEASES_AT_ONCE,
    gatherMs: GATHER_LEASES_MS,
    triesAlone: true,
  });
  const asker = (subject: string) => hostIdOf(subject) ?? "";
  const prepare = (hostId: HostId) =>
    ensureConsumer(bus, hostCommands(hostId), { limitMs: PREPARE_LIMIT_MS });
  return [
    handleRequests(bus, {
      pattern: patterns.requests("register"),
      queue: QUEUE,
      decode: decode.register,
      refuse: noLease,
      handle: (request, subject) => handleRegister(deps, asker(subject), request, prepare),
      log,
    }),
    handleRequests(bus, {
      pattern: patterns.requests("lease"),
      queue: QUEUE,
      decode: decode.lease,
      refuse: noLease,
      handle: (request, subject) =>
        handleLease(deps, asker(subject), request, (asked) => leases.add(asked)),
      atOnce: LEASES_AT_ONCE,
      log,
    }),
    handleRequests(bus, {
      pattern: patterns.requests("commit"),
      queue: QUEUE,
      decode: decode.commit,
      refuse: notGranted,
      handle: (request, subject) => handleCommit(deps, asker(subject), request),
      atOnce: AT_ONCE,
      log,
    }),
    handleRequests(bus, {
      pattern: patterns.requests("thaw"),
      queue: QUEUE,
      decode: decode.thaw,
      refuse: notGranted,
      handle: (request, subject) => handleThaw(deps, asker(subject), request),
      log,
    }),
    handleRequests(bus, {
      pattern: patterns.requests("garbage"),
      queue: QUEUE,
      decode: decode.garbage,
      handle: (request, subject) => handleGarbage(deps, asker(subject), request),
      log,
    }),
    handleRequests(bus, {
      pattern: subjects.controlRequest("placement"),
      queue: QUEUE,
      decode: decode.placement,
      handle: (question) => handlePlacement(deps, question),
      log,
    }),
  ];
}

/** Heartbeats that are handled together (handle-heartbeats.ts), at most. */
const HEARTBEATS_AT_ONCE = 256;

function consumeHeartbeats(
  deps: Deps,
  bus: Bus,
  goOn: (operationId: OperationId) => Promise<unknown>,
): void {
  const hear = heartbeatHandler(deps, goOn);
  subscribeCore(bus, {
    pattern: patterns.heartbeats,
    queue: QUEUE,
    decode: decode.heartbeat,
    handle: async (heartbeat, subject) => {
      if (hostIdOf(subject) === heartbeat.hostId) await hear(heartbeat);
    },
    atOnce: HEARTBEATS_AT_ONCE,
    log: deps.log,
  });
}
