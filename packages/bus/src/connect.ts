/** The connection to NATS, and the streams on it. Only this package imports the NATS client. */
import { jetstream, type JetStreamClient, jetstreamManager, type JetStreamManager } from "@nats-io/jetstream";
import { connect, type NatsConnection } from "@nats-io/transport-node";
import { settlesWithin } from "@torpor/service";

const DRAIN_LIMIT_MS = 3_000;

export interface BusOptions {
  /** Of one server or of several of a cluster, with commas between them. */
  url: string;
  name: string;
  user?: string | undefined;
  password?: string | undefined;
  /** A host may subscribe to its own inboxes only. */
  inboxPrefix?: string | undefined;
}

export interface Bus {
  readonly connection: NatsConnection;
  readonly jetstream: JetStreamClient;
  /** Made on first use: a host has no permission for it and never asks. */
  manager(): Promise<JetStreamManager>;
  isConnected(): boolean;
  /** Whether the server answers now, which `isConnected` believes for up to 15 s after a network was cut. */
  answers(limitMs: number): Promise<boolean>;
  /** Finishes what is under way, at most 3 s, and closes. */
  close(): Promise<void>;
}

const REQUEST_LIMIT_MS = 5_000;

/** Connects to whichever server answers, waiting for one that is not up yet; reconnects for ever afterwards, to any of them. */
export async function connectBus(options: BusOptions): Promise<Bus> {
  const connection = await connect({
    servers: serversIn(options.url),
    name: options.name,
    ...(options.user === undefined ? {} : { user: options.user, pass: options.password ?? "" }),
    ...(options.inboxPrefix === undefined ? {} : { inboxPrefix: options.inboxPrefix }),
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
  void (async () => {
    for await (const status of connection.status()) {
      if (status.type === "disconnect" || status.type === "staleConnection") connected = false;
      if (status.type === "reconnect") connected = true;
    }
  })();
  const isConnected = () => connected && !connection.isClosed();
  return {
    connection,
    jetstream: jetstream(connection, { timeout: REQUEST_LIMIT_MS }),
    manager: () => (manager ??= jetstreamManager(connection, { timeout: REQUEST_LIMIT_MS, checkAPI: false })),
    isConnected,
    answers: async (limitMs) => {
      if (!isConnected()) return false;
      const answer = connection.flush().then(
        () => true,
        () => false,
      );
      return (await settlesWithin(answer, limitMs)) && (await answer);
    },
    close: async () => {
      await settlesWithin(connection.drain(), DRAIN_LIMIT_MS);
      if (!connection.isClosed()) await connection.close();
    },
  };
}

/** The servers that a NATS_URL names. */
export function serversIn(url: string): string[] {
  return url
    .split(",")
    .map((server) => server.trim())
    .filter((server) => server !== "");
}
