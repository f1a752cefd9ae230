import { NATS_CREDENTIALS } from "@torpor/bus";
import { TLS_SETTINGS, tlsFilesIn } from "@torpor/identity";
import { ConfigurationError, loadConfig, LogLevel } from "@torpor/service";
import { createProxies } from "./proxies.ts";
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
  /** Several gateways of one machine take the connections of the same port in turn. */
  LISTEN_REUSE_PORT: Type.Boolean({ default: false }),
  /** Its own health report, also where the port of the API is shared or behind a balancer. */
  HEALTH_HOST: Type.String({ default: "127.0.0.1" }),
  HEALTH_PORT: Type.Integer({ minimum: 0, maximum: 65_535, default: 9200 }),
  /**
   * Of sandboxes' agents on their loopback addresses, and so taken on every address of this
   * machine; of no use with PUBLIC_DOMAIN.
   */
  EDGE_PORT: Port(7777),
  /**
   * Sandboxes are reached as `{port}-{id}.{region}.vms.<PUBLIC_DOMAIN>` instead of on loopback
   * addresses.
   */
  PUBLIC_DOMAIN: Type.Optional(Type.String({ pattern: "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$" })),
  EDGE_DOMAIN_HOST: Type.String({ default: "127.0.0.1" }),
  EDGE_DOMAIN_PORT: Port(8788),
  /** Both or none. Taken up anew when the files change. */
  EDGE_TLS_CERT_FILE: Type.Optional(Type.String()),
  EDGE_TLS_KEY_FILE: Type.Optional(Type.String()),
  /** What clients see of the domain, where a balancer stands before the gateways. */
  EDGE_PUBLIC_SCHEME: Type.Optional(Type.Enum(["http", "https"])),
  EDGE_PUBLIC_PORT: Type.Optional(Port()),
  /** Of one API key, by this process; 0: no bound. */
  RATE_LIMIT_PER_MINUTE: Type.Integer({ minimum: 0, default: 6_000 }),
  /** Of one sandbox or API key at the edge, by this process; 0: no bound. */
  EDGE_RATE_LIMIT_PER_MINUTE: Type.Integer({ minimum: 0, default: 60_000 }),
  /** Of one API key, under way in this process; 0: no bound. */
  REQUESTS_AT_ONCE_PER_KEY: Type.Integer({ minimum: 0, default: 500 }),
  /**
   * The same at the edge, of one sandbox's token, API key or public previews; streams and
   * WebSockets count until they end.
   */
  EDGE_REQUESTS_AT_ONCE: Type.Integer({ minimum: 0, default: 2_000 }),
  /** Wrong API keys of one address, by this process; 0: no bound. */
  GUESSES_PER_MINUTE: Type.Integer({ minimum: 0, default: 120 }),
  /** Without a credential, of one address, to the API and to the edge each; 0: no bound. */
  CONNECTIONS_PER_ADDRESS: Type.Integer({ minimum: 0, default: 512 }),
  /**
   * Of all clients, to the API and to the edge each; default: as many as the open files of the
   * process allow, at most 20,000.
   */
  CONNECTIONS_MAX: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_000_000 })),
  /**
   * Addresses and networks of proxies before this gateway, with commas: what they say of their
   * clients is believed.
   */
  TRUST_PROXY: Type.String({ default: "" }),
  AUTO_RESUME_WAIT_MS: Type.Integer({ minimum: 1_000, maximum: 55_000, default: 50_000 }),
  /** Signs sandbox tokens. */
  TOKEN_SECRET_FILE: Type.String(),
  /**
   * Files with further secrets, with commas between them: tokens that were signed with these are
   * good, too.
   */
  TOKEN_ACCEPTED_SECRET_FILES: Type.String({ default: "" }),
  /**
   * Encrypts environment variables for the database; without it they are kept as they are. One that
   * all schedulers have.
   */
  ENV_KEY_FILE: Type.Optional(Type.String()),
  /** Of fleets in which there are hosts of 0.1.0, which know no tickets. */
  HOST_DATA_KEY_FILE: Type.Optional(Type.String()),
  ...TLS_SETTINGS,
  /** Both or none: the fleet's own authority, which certifies the hosts that join. */
  FLEET_CA_CERT_FILE: Type.Optional(Type.String()),
  FLEET_CA_KEY_FILE: Type.Optional(Type.String()),
  HOST_CERTIFICATE_DAYS: Type.Integer({ minimum: 1, maximum: 3_650, default: 365 }),
  /** What hosts that join are told; default: NATS_URL. */
  HOST_NATS_URL: Type.Optional(Type.String({ pattern: "^(nats|tls)://" })),
  REGION: Type.String({ default: "local" }),
  /**
   * Between saying that it will stop and taking no more connections: as long as a balancer needs to
   * notice.
   */
  DRAIN_DELAY_MS: Type.Integer({ minimum: 0, maximum: 300_000, default: 0 }),
  /** For what is under way then. */
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
