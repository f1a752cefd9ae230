import type { RequestReply } from "@torpor/bus";
import type { PlacementQuestion, PlacementReply } from "@torpor/contracts";
import type { Database, OutboxRow } from "@torpor/db";
import type { Envelope } from "@torpor/service";
import type { FastifyBaseLogger } from "fastify";
import type { AuditLog } from "./audit.ts";
import type { Edge } from "./edge/edge.ts";
import type { FleetIdentity } from "./hosts/fleet-identity.ts";
import type { PreviewLinks } from "./auth/preview-links.ts";
import type { RateLimiter } from "./auth/rate-limit.ts";
import type { ConnectionLimits } from "./http/connection-limits.ts";
import type { Guesses } from "./auth/guesses.ts";
import type { Proxies } from "./http/proxies.ts";
import type { SandboxEvents } from "./operations/sandbox-events.ts";
import type { Tokens } from "./auth/tokens.ts";
import type { UnderWay } from "./operations/under-way.ts";

/** Dependencies of the public API. */
export interface Dependencies {
  db: Database;
  log: FastifyBaseLogger;
  tokens: Tokens;
  previewLinks: PreviewLinks;
  /** Encrypts environment variables for the database. */
  envelope: Envelope;
  events: SandboxEvents;
  /**
   * Publishes committed outbox rows at once; the scheduler's relay publishes what fails. Never
   * throws, and no request waits for it.
   */
  publishCommitted(messages: OutboxRow[]): Promise<void>;
  /**
   * Requests a placement from a scheduler; `no_answer` after at most 2 s, also while the bus is
   * away.
   */
  requestPlacement(question: PlacementQuestion): Promise<RequestReply<PlacementReply>>;
  edge: Pick<Edge, "publicHost" | "previewOrigin">;
  limiter: RateLimiter;
  audit: AuditLog;
  fleetIdentity: FleetIdentity;
  guesses: Guesses;
  underWay: UnderWay;
  proxies: Proxies;
  connections: Pick<ConnectionLimits, "watch" | "know">;
  /** Region of a create that names none. */
  region: string;
  /**
   * For the health report, and for the interval at which a waiting request reads: no request that
   * changes a sandbox needs the bus.
   */
  busConnected(): boolean;
  /**
   * Largest message that the NATS servers take, in bytes; undefined until they have reported it.
   */
  maxMessageBytes(): number | undefined;
  /** For the health report, outside all lanes (DT4). */
  pingDatabase(): Promise<void>;
  /** Aborted when the process is asked to stop: from then on the health report is `draining`. */
  draining: AbortSignal;
  /**
   * Aborted when the time for requests under way is over: waiting requests then respond at once.
   */
  stopping: AbortSignal;
  limits: GatewayLimits;
}

export interface GatewayLimits {
  /**
   * How long a request waits for its operation to end. Below the 60 s after which the Python SDK
   * gives up and sends the request again.
   */
  waitMs: number;
  /** How often a waiting request reads the operation's row without an event. */
  lookEveryMs: number;
  /** The same while the bus is away, and no event can come. */
  lookWithoutBusEveryMs: number;
  /**
   * Time limit of a create, below `waitMs`: a create without Idempotency-Key always ends before its
   * request does.
   */
  createDeadlineMs: number;
  /**
   * Time limit of the other operations that need a host (resume, start): without capacity the
   * response is a 429, not an endless wait.
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
