import type { RequestReply } from "@torpor/bus";
import type { PlacementQuestion, PlacementReply } from "@torpor/contracts";
import type { Database, OutboxRow } from "@torpor/db";
import type { Envelope } from "@torpor/service";
import type { FastifyBaseLogger } from "fastify";
import type { AuditLog } from "./audit.ts";
import type { Edge } from "./edge/edge.ts";
import type { FleetIdentity } from "./fleet-identity.ts";
import type { PreviewLinks } from "./preview-links.ts";
import type { RateLimiter } from "./rate-limit.ts";
import type { ConnectionLimits } from "./connection-limits.ts";
import type { Guesses } from "./guesses.ts";
import type { Proxies } from "./proxies.ts";
import type { SandboxEvents } from "./sandbox-events.ts";
import type { Tokens } from "./tokens.ts";
import type { UnderWay } from "./under-way.ts";

/** What the public API is made from. */
export interface Dependencies {
  db: Database;
  log: FastifyBaseLogger;
  tokens: Tokens;
  previewLinks: PreviewLinks;
  /** For environment variables, in the database. */
  envelope: Envelope;
  events: SandboxEvents;
  /**
   * Publishes committed outbox rows at once; what fails is left to the scheduler's relay. Never
   * throws, and nobody waits for it.
   */
  publishCommitted(messages: OutboxRow[]): Promise<void>;
  /** Asks the schedulers; "no answer" within 2 s, also while the bus is away. */
  requestPlacement(question: PlacementQuestion): Promise<RequestReply<PlacementReply>>;
  edge: Pick<Edge, "publicHost" | "previewOrigin">;
  limiter: RateLimiter;
  audit: AuditLog;
  fleetIdentity: FleetIdentity;
  guesses: Guesses;
  underWay: UnderWay;
  proxies: Proxies;
  connections: Pick<ConnectionLimits, "watch" | "know">;
  /** Region of sandboxes that ask for none. */
  region: string;
  /**
   * For the health report, and for how often a request that waits looks: nothing that changes a
   * sandbox needs the bus.
   */
  busConnected(): boolean;
  /** Of a message, at most, as far as the servers have said; undefined: they have not yet. */
  maxMessageBytes(): number | undefined;
  /** For the health report, and not in the way of anybody's queries (DT4). */
  pingDatabase(): Promise<void>;
  /** Aborted when the process is asked to stop: from then on its health report says so. */
  draining: AbortSignal;
  /** Aborted when the time for what is under way is over: waiting requests then answer at once. */
  stopping: AbortSignal;
  limits: GatewayLimits;
}

export interface GatewayLimits {
  /**
   * How long a request waits for its operation to end. Below the 60 s after which the Python SDK
   * gives up and sends again.
   */
  waitMs: number;
  /**
   * How often a waiting request looks at the operation's row when no event wakes it; one that has
   * waited for long looks less often.
   */
  lookEveryMs: number;
  /** The same while the bus is away, and no event can. */
  lookWithoutBusEveryMs: number;
  /**
   * Time limit of a create, below `waitMs`: a create without Idempotency-Key always ends before its
   * request does.
   */
  createDeadlineMs: number;
  /**
   * Time limit of what else needs a place on a host (resume, start): without capacity the answer is
   * 429, not a wait without end.
   */
  placedDeadlineMs: number;
  /** How long traffic waits at the edge for its paused sandbox to be resumed. */
  autoResumeWaitMs: number;
  /** Largest request body, in bytes. */
  bodyBytes: number;
}

export const DEFAULT_LIMITS: GatewayLimits = {
  waitMs: 50_000,
  lookEveryMs: 1_000,
  lookWithoutBusEveryMs: 150,
  createDeadlineMs: 45_000,
  placedDeadlineMs: 45_000,
  autoResumeWaitMs: 50_000,
  bodyBytes: 1024 * 1024,
};
