/**
 * Everything that reaches a scheduler over the bus, one row each: consumers of streams, core
 * subscriptions, and kinds of requests, with decoder, handler and concurrency.
 */
import {
  type Bus,
  consume,
  type ConsumeOptions,
  type CoreHandler,
  ensureConsumer,
  handleRequests,
  type RequestHandler,
  subscribeCore,
} from "@torpor/bus";
import {
  bounded,
  CommitRequest,
  type ConsumerDefinition,
  decodeBoundedHeartbeat,
  decodeBoundedObservation,
  decoder,
  GarbageRequest,
  type Heartbeat,
  hostCommands,
  type HostId,
  hostIdOf,
  Intent,
  InvalidMessageError,
  LeaseRequest,
  type Observation,
  type OperationId,
  patterns,
  PlacementQuestion,
  RegisterRequest,
  SCHEDULER_INTENTS,
  SCHEDULER_OBSERVATIONS,
  subjects,
  ThawRequest,
} from "@torpor/contracts";
import { isRefusedValue, type LeaseRenewal, renewFreeLeases } from "@torpor/db";
import { Batches, withTimeLimit } from "@torpor/service";
import type { Deps } from "./deps.ts";
import {
  handleCommit,
  handleGarbage,
  handleLease,
  handleRegister,
  handleThaw,
} from "./hosts/handle-host-requests.ts";
import { heartbeatHandler } from "./inventory/handle-heartbeats.ts";
import { applyObservation } from "./observations/apply-observation.ts";
import { beginOperation } from "./operations/begin-operation.ts";
import { handlePlacement } from "./placement/handle-placement.ts";

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
/** Heartbeats that are handled together (handle-heartbeats.ts), at most. */
const HEARTBEATS_AT_ONCE = 256;
/** Leases that are renewed together, at most. */
const LEASES_AT_ONCE = 256;
/** Short enough: a host requests with two thirds of its lease left. */
const GATHER_LEASES_MS = 50;
/** Not much longer than a host waits for the reply to its registration; then it requests again. */
export const PREPARE_LIMIT_MS = 3_000;

const hostOf = (subject: string) => hostIdOf(subject) ?? "";
const notGranted = (reason: string) => ({ granted: false, reason });
const noLease = (reason: string) => ({ ...notGranted(reason), leaseMs: 0 });

export const consumerArrows = (deps: Deps) => [
  consumer({
    consumer: SCHEDULER_INTENTS,
    decode: decode.intent,
    handle: ({ operationId }) => begin(deps, operationId),
    concurrency: AT_ONCE,
  }),
  consumer({
    consumer: SCHEDULER_OBSERVATIONS,
    decode: decode.observation,
    handle: (seen, { subject }) => apply(deps, seen, subject),
    concurrency: AT_ONCE,
    concurrencyPerLane: AT_ONCE_PER_HOST,
    laneOf: hostOf,
  }),
];

export const coreArrows = (deps: Deps) => [
  core({
    pattern: patterns.heartbeats,
    decode: decode.heartbeat,
    handle: hearHeartbeats(deps),
    atOnce: HEARTBEATS_AT_ONCE,
  }),
];

/** A new table for each start, so that no request waits for a batch of an earlier one. */
export const requestArrows = (deps: Deps, bus: Bus) => [
  requests({
    pattern: patterns.requests("register"),
    decode: decode.register,
    refuse: noLease,
    handle: (request, subject) => handleRegister(deps, hostOf(subject), request, preparerOn(bus)),
  }),
  requests({
    pattern: patterns.requests("lease"),
    decode: decode.lease,
    refuse: noLease,
    handle: renewLeases(deps),
    atOnce: LEASES_AT_ONCE,
  }),
  requests({
    pattern: patterns.requests("commit"),
    decode: decode.commit,
    refuse: notGranted,
    handle: (request, subject) => handleCommit(deps, hostOf(subject), request),
    atOnce: AT_ONCE,
  }),
  requests({
    pattern: patterns.requests("thaw"),
    decode: decode.thaw,
    refuse: notGranted,
    handle: (request, subject) => handleThaw(deps, hostOf(subject), request),
  }),
  requests({
    pattern: patterns.requests("garbage"),
    decode: decode.garbage,
    handle: (request, subject) => handleGarbage(deps, hostOf(subject), request),
  }),
  requests({
    pattern: subjects.controlRequest("placement"),
    decode: decode.placement,
    handle: (question) => handlePlacement(deps, question),
  }),
];

type Log = Pick<Deps, "log">;

/** A row of a table: `start` knows the type of its messages, the table does not. */
interface ConsumerArrow {
  definition: ConsumerDefinition;
  /** Reads until the signal aborts. Resolves when the handlers have finished. */
  start(bus: Bus, running: Log & { signal: AbortSignal }): Promise<void>;
}

/** `start` returns a function that ends the subscription. */
interface SubscriptionArrow<Ended> {
  start(bus: Bus, running: Log): () => Ended;
}

function consumer<T>(row: Omit<ConsumeOptions<T>, "signal" | "log">): ConsumerArrow {
  return {
    definition: row.consumer,
    start: (bus, { signal, log }) => consume(bus, { ...row, signal, log }),
  };
}

function core<T>(row: Omit<CoreHandler<T>, "queue" | "log">): SubscriptionArrow<void> {
  return { start: (bus, { log }) => subscribeCore(bus, { ...row, queue: QUEUE, log }) };
}

function requests<T>(
  row: Omit<RequestHandler<T>, "queue" | "log">,
): SubscriptionArrow<Promise<void>> {
  return { start: (bus, { log }) => handleRequests(bus, { ...row, queue: QUEUE, log }) };
}

async function begin(deps: Deps, operationId: OperationId): Promise<"ack"> {
  await withTimeLimit(beginOperation(deps, operationId), HANDLE_LIMIT_MS, "the decision");
  return "ack";
}

async function apply(deps: Deps, seen: Observation, subject: string): Promise<"ack" | "reject"> {
  if (hostIdOf(subject) !== seen.hostId) return "reject";
  try {
    await withTimeLimit(
      applyObservation(deps, seen, goOnWith(deps)),
      HANDLE_LIMIT_MS,
      "the decision",
    );
  } catch (cause) {
    // Another try would fail alike, and hold up the observations of other hosts.
    if (isRefusedValue(cause))
      throw new InvalidMessageError(subject, ["the database refuses it"], { cause });
    throw cause;
  }
  return "ack";
}

const goOnWith = (deps: Deps) => (operationId: OperationId) => beginOperation(deps, operationId);

function hearHeartbeats(deps: Deps) {
  const hear = heartbeatHandler(deps, goOnWith(deps));
  return async (heartbeat: Heartbeat, subject: string): Promise<void> => {
    if (hostIdOf(subject) === heartbeat.hostId) await hear(heartbeat);
  };
}

function renewLeases(deps: Deps) {
  const leases = new Batches({
    run: (asked: LeaseRenewal[]) => renewFreeLeases(deps.db, asked, deps.hostTerms.leaseMs),
    maxItems: LEASES_AT_ONCE,
    gatherMs: GATHER_LEASES_MS,
    triesAlone: true,
  });
  return (request: LeaseRequest, subject: string) =>
    handleLease(deps, hostOf(subject), request, (asked) => leases.add(asked));
}

const preparerOn = (bus: Bus) => (hostId: HostId) =>
  ensureConsumer(bus, hostCommands(hostId), { limitMs: PREPARE_LIMIT_MS });
