/** The connection to NATS, and the streams on it. Only this package imports the NATS client. */
import {
  jetstream,
  type JetStreamClient,
  jetstreamManager,
  type JetStreamManager,
} from "@nats-io/jetstream";
import { connect, type NatsConnection, type NodeConnectionOptions } from "@nats-io/transport-node";
import type { HostId } from "@torpor/contracts";
import type { TlsFiles } from "@torpor/identity";
import { endsWithin } from "@torpor/service";
import { keyAuthenticator } from "./nats-key.ts";
import { HOST_API_PREFIX, inboxPrefixOf } from "./permissions.ts";

const DRAIN_LIMIT_MS = 3_000;

export interface BusOptions {
  /**
   * URL of a server, or of several of a cluster with commas between them. `tls://`: only over TLS.
   */
  url: string;
  name: string;
  user?: string | undefined;
  password?: string | undefined;
  /** Seed of an NKey, instead of user and password. */
  seed?: string | undefined;
  /** For `tls://`: trusted authorities and own certificate. Read again for each connection. */
  tlsFiles?: (Pick<TlsFiles, "caFile"> & Partial<TlsFiles>) | undefined;
  /** Set for a host, which has its own account and inboxes (permissions.ts). */
  hostId?: HostId | undefined;
}

export interface Bus {
  readonly connection: NatsConnection;
  readonly jetstream: JetStreamClient;
  /** JetStream APIs to try, the likeliest first: a host may share the control plane's account. */
  readonly apis: readonly JetStreamClient[];
  /** Made on first use, because a host has no permission for it and never uses it. */
  manager(): Promise<JetStreamManager>;
  isConnected(): boolean;
  /** Calls `hear` after every reconnect. Returns a function that ends this. */
  onReconnect(hear: () => void): () => void;
  /**
   * True if the server replies; `isConnected` stays true for up to 15 s after a network was cut.
   */
  answers(limitMs: number): Promise<boolean>;
  /** Finishes open work, for at most 3 s, and closes. */
  close(): Promise<void>;
}

const REQUEST_LIMIT_MS = 5_000;

/**
 * Connects to any of the servers, and waits if none is up yet. Afterwards reconnects forever, to
 * any of them.
 */
export async function connectBus(options: BusOptions): Promise<Bus> {
  const connection = await connect({
    servers: serversIn(options.url),
    name: options.name,
    ...credentialsIn(options),
    ...tlsOf(options),
    ...(options.hostId === undefined ? {} : { inboxPrefix: inboxPrefixOf(options.hostId) }),
    waitOnFirstConnect: true,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 200,
    reconnectJitter: 200,
    pingInterval: 5_000,
    maxPingOut: 2,
    timeout: 5_000,
  });
  let manager: Promise<JetStreamManager> | undefined;
  let connected = true;
  const hearers = new Set<() => void>();
  void (async () => {
    for await (const status of connection.status()) {
      if (status.type === "disconnect" || status.type === "staleConnection") connected = false;
      if (status.type !== "reconnect") continue;
      connected = true;
      for (const hear of hearers) hear();
    }
  })();
  const plain = jetstream(connection, { timeout: REQUEST_LIMIT_MS });
  const across = () =>
    jetstream(connection, { timeout: REQUEST_LIMIT_MS, apiPrefix: HOST_API_PREFIX });
  const isConnected = () => connected && !connection.isClosed();
  return {
    connection,
    jetstream: plain,
    apis: options.hostId === undefined ? [plain] : [across(), plain],
    manager: () =>
      (manager ??= jetstreamManager(connection, { timeout: REQUEST_LIMIT_MS, checkAPI: false })),
    isConnected,
    onReconnect: (hear) => {
      hearers.add(hear);
      return () => void hearers.delete(hear);
    },
    answers: async (limitMs) => {
      if (!isConnected()) return false;
      const answer = connection.flush().then(
        () => true,
        () => false,
      );
      return (await endsWithin(answer, limitMs)) && (await answer);
    },
    close: async () => {
      await endsWithin(connection.drain(), DRAIN_LIMIT_MS);
      if (!connection.isClosed()) await connection.close();
    },
  };
}

function credentialsIn({ user, password, seed }: BusOptions): NodeConnectionOptions {
  if (seed !== undefined) return { authenticator: keyAuthenticator(seed) };
  return user === undefined ? {} : { user, pass: password ?? "" };
}

/**
 * The TLS handshake comes before the server's first message, so a server cannot claim to have no
 * TLS. Without `tls://` there is no TLS, even if a server offers it: the server could not be
 * verified.
 */
function tlsOf({ url, tlsFiles }: BusOptions): NodeConnectionOptions {
  if (!url.includes("tls://")) return { tls: null };
  return { tls: { handshakeFirst: true, ...tlsFiles } };
}

/** The servers that a NATS_URL names. */
export function serversIn(url: string): string[] {
  return url
    .split(",")
    .map((server) => server.trim())
    .filter((server) => server !== "");
}
