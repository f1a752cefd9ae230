/**
 * The scheduler without its process: consumers, request handlers, reconcilers and the outbox relay
 * over a given database and bus. Any number may run.
 */
import { type Bus, ensureConsumer, ensureStreams } from "@torpor/bus";
import { type Database, measureOutbox, summarizeRefused } from "@torpor/db";
import { Publisher, relayCommitted } from "@torpor/outbox";
import type { PlacementPolicy } from "@torpor/placement";
import {
  createEnvelope,
  type Envelope,
  findFailingRounds,
  type Logger,
  type Reconciler,
  startReconciler,
  type WorkProblem,
} from "@torpor/service";
import { consumerArrows, coreArrows, PREPARE_LIMIT_MS, requestArrows } from "./arrows.ts";
import { DEFAULT_HOST_TERMS, type Deps, type HostTerms } from "./deps.ts";
import { DueRounds } from "./due-rounds.ts";
import type { HostRules } from "./hosts/admission.ts";
import { HostNetworks } from "./hosts/host-networks.ts";
import { messageOf } from "./operations/environment.ts";
import { Placer } from "./placement/placer.ts";
import { RECONCILERS } from "./reconcilers.ts";
import { noteHandling, RequestHandling } from "./request-handling.ts";
import { RESTORE_BUS, restoreBus } from "./restore-bus.ts";
import { REFUSED_SHOWN_MS, WorkWatch } from "./work-watch.ts";

const DRIVE_AFTER_MS = 500;
const RELAY_EVERY_MS = 250;
const RESTORE_BUS_EVERY_MS = 5_000;
const MEASURE_OUTBOX_EVERY_MS = 5_000;

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
  const arrows = consumerArrows(deps);
  const consumers = arrows.map(({ definition }) => definition);
  for (const consumer of consumers) await ensureConsumer(bus, consumer, { signal });
  for (const arrow of coreArrows(deps)) arrow.start(bus, { log });
  const answers = new RequestHandling(() =>
    requestArrows(deps, bus).map((arrow) => arrow.start(bus, { log })),
  );
  const loops = arrows.map((arrow) => arrow.start(bus, { signal, log }));
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
    run: () =>
      restoreBus(deps, bus, consumers, watch, { replicas, signal, limitMs: PREPARE_LIMIT_MS }),
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

async function aborted(signal: AbortSignal): Promise<void> {
  if (!signal.aborted)
    await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
}
