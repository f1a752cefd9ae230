import { NATS_CREDENTIALS } from "@torpor/bus";
import { TLS_SETTINGS, tlsFilesIn } from "@torpor/identity";
import { ConfigurationError, loadConfig, LogLevel } from "@torpor/service";
import { createProxies } from "./http/proxies.ts";
import { type Static, Type } from "typebox";

const Port = (fallback?: number) =>
  Type.Integer({
    minimum: 1,
    maximum: 65_535,
    ...(fallback === undefined ? {} : { default: fallback }),
  });

const Environment = Type.Object({
  LOG_LEVEL: LogLevel,
  DATABASE_URL: Type.String({ pattern: "^postgres(ql)?://" }),
  /** Connections to the database, at most. */
  DATABASE_POOL_MAX: Type.Integer({ minimum: 2, maximum: 1_000, default: 20 }),
  NATS_URL: Type.String({ pattern: "^(nats|tls)://" }),
  ...NATS_CREDENTIALS,
  LISTEN_HOST: Type.String({ default: "127.0.0.1" }),
  LISTEN_PORT: Type.Integer({ minimum: 0, maximum: 65_535, default: 8787 }),
  /**
   * Lets several gateways on one machine share the port; the kernel distributes the connections.
   */
  LISTEN_REUSE_PORT: Type.Boolean({ default: false }),
  /**
   * The health report of this process, also where the port of the API is shared or behind a
   * balancer.
   */
  HEALTH_HOST: Type.String({ default: "127.0.0.1" }),
  HEALTH_PORT: Type.Integer({ minimum: 0, maximum: 65_535, default: 9200 }),
  /**
   * Port of the guest agents on the loopback addresses of their sandboxes, and so taken on every
   * address of this machine; unused with PUBLIC_DOMAIN.
   */
  EDGE_PORT: Port(7777),
  /**
   * Serves sandboxes as `{port}-{id}.{region}.vms.<PUBLIC_DOMAIN>` instead of on loopback
   * addresses.
   */
  PUBLIC_DOMAIN: Type.Optional(Type.String({ pattern: "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$" })),
  EDGE_DOMAIN_HOST: Type.String({ default: "127.0.0.1" }),
  EDGE_DOMAIN_PORT: Port(8788),
  /** Both or none. The gateway reloads the files when they change. */
  EDGE_TLS_CERT_FILE: Type.Optional(Type.String()),
  EDGE_TLS_KEY_FILE: Type.Optional(Type.String()),
  /** Scheme and port that clients see, where a balancer is in front of the gateways. */
  EDGE_PUBLIC_SCHEME: Type.Optional(Type.Enum(["http", "https"])),
  EDGE_PUBLIC_PORT: Type.Optional(Port()),
  /** Requests of one API key to this process; 0: no limit. */
  RATE_LIMIT_PER_MINUTE: Type.Integer({ minimum: 0, default: 6_000 }),
  /** Requests of one sandbox or API key at the edge of this process; 0: no limit. */
  EDGE_RATE_LIMIT_PER_MINUTE: Type.Integer({ minimum: 0, default: 60_000 }),
  /** Requests of one API key under way in this process; 0: no limit. */
  REQUESTS_AT_ONCE_PER_KEY: Type.Integer({ minimum: 0, default: 500 }),
  /**
   * The same at the edge, for one sandbox's token, API key or public previews; streams and
   * WebSockets count until they end.
   */
  EDGE_REQUESTS_AT_ONCE: Type.Integer({ minimum: 0, default: 2_000 }),
  /**
   * Wrong API keys of one address to this process, and as many wrong preview links; 0: no limit.
   */
  GUESSES_PER_MINUTE: Type.Integer({ minimum: 0, default: 120 }),
  /**
   * Connections of one address without a credential, to the API and to the edge each; 0: no limit.
   */
  CONNECTIONS_PER_ADDRESS: Type.Integer({ minimum: 0, default: 512 }),
  /**
   * Connections of all clients, to the API and to the edge each; default: as many as the open files
   * of the process allow, at most 20,000.
   */
  CONNECTIONS_MAX: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_000_000 })),
  /**
   * Addresses and networks of proxies in front of this gateway, separated by commas: their headers
   * about clients are trusted.
   */
  TRUST_PROXY: Type.String({ default: "" }),
  AUTO_RESUME_WAIT_MS: Type.Integer({ minimum: 1_000, maximum: 55_000, default: 50_000 }),
  /** The secret that signs sandbox tokens and preview links. */
  TOKEN_SECRET_FILE: Type.String(),
  /** Files with further secrets, separated by commas: what they have signed is accepted too. */
  TOKEN_ACCEPTED_SECRET_FILES: Type.String({ default: "" }),
  /**
   * The key that encrypts environment variables in the database, the same as the schedulers'.
   * Without it, they are stored in plain text.
   */
  ENV_KEY_FILE: Type.Optional(Type.String()),
  /** For fleets with hosts of 0.1.0, which have no tickets. */
  HOST_DATA_KEY_FILE: Type.Optional(Type.String()),
  ...TLS_SETTINGS,
  /** Both or none: the fleet's own authority, which certifies the hosts that join. */
  FLEET_CA_CERT_FILE: Type.Optional(Type.String()),
  FLEET_CA_KEY_FILE: Type.Optional(Type.String()),
  HOST_CERTIFICATE_DAYS: Type.Integer({ minimum: 1, maximum: 3_650, default: 365 }),
  /** NATS servers for hosts that join; default: NATS_URL. */
  HOST_NATS_URL: Type.Optional(Type.String({ pattern: "^(nats|tls)://" })),
  REGION: Type.String({ default: "local" }),
  /**
   * Time between reporting `draining` and closing the listeners: as long as a balancer needs to
   * notice.
   */
  DRAIN_DELAY_MS: Type.Integer({ minimum: 0, maximum: 300_000, default: 0 }),
  /** Time for the requests under way after that. */
  SHUTDOWN_GRACE_MS: Type.Integer({ minimum: 100, default: 10_000 }),
});
export type GatewayConfig = Static<typeof Environment>;

/** Throws ConfigurationError. */
export function configFrom(env: NodeJS.ProcessEnv): GatewayConfig {
  const config = loadConfig(Environment, env);
  tlsFilesIn(config);
  if ((config.FLEET_CA_CERT_FILE === undefined) !== (config.FLEET_CA_KEY_FILE === undefined))
    throw new ConfigurationError(
      "invalid configuration: FLEET_CA_CERT_FILE and FLEET_CA_KEY_FILE belong together: set both or none",
    );
  void createProxies(config.TRUST_PROXY);
  return config;
}
