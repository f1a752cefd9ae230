import { loadConfig, LogLevel } from "@torpor/service";
import { type Static, Type } from "typebox";

const Port = (fallback?: number) => Type.Integer({ minimum: 1, maximum: 65_535, ...(fallback === undefined ? {} : { default: fallback }) });

const Environment = Type.Object({
  LOG_LEVEL: LogLevel,
  DATABASE_URL: Type.String({ pattern: "^postgres(ql)?://" }),
  /** Connections to the database, at most. */
  DATABASE_POOL_MAX: Type.Integer({ minimum: 2, maximum: 1_000, default: 20 }),
  NATS_URL: Type.String({ pattern: "^(nats|tls)://" }),
  NATS_USER: Type.Optional(Type.String()),
  NATS_PASSWORD_FILE: Type.Optional(Type.String()),
  LISTEN_HOST: Type.String({ default: "127.0.0.1" }),
  LISTEN_PORT: Type.Integer({ minimum: 0, maximum: 65_535, default: 8787 }),
  /** Several gateways of one machine take the connections of the same port in turn. */
  LISTEN_REUSE_PORT: Type.Boolean({ default: false }),
  /** Its own health report, also where the port of the API is shared or behind a balancer. */
  HEALTH_HOST: Type.String({ default: "127.0.0.1" }),
  HEALTH_PORT: Type.Integer({ minimum: 0, maximum: 65_535, default: 9200 }),
  /** Of sandboxes' agents on their loopback addresses; of no use with PUBLIC_DOMAIN. */
  EDGE_PORT: Port(7777),
  /** Sandboxes are reached as `{port}-{id}.{region}.vms.<PUBLIC_DOMAIN>` instead of on loopback addresses. */
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
  AUTO_RESUME_WAIT_MS: Type.Integer({ minimum: 1_000, maximum: 55_000, default: 50_000 }),
  /** Signs sandbox tokens. */
  TOKEN_SECRET_FILE: Type.String(),
  /** Files with further secrets, with commas between them: tokens that were signed with these are good, too. */
  TOKEN_ACCEPTED_SECRET_FILES: Type.String({ default: "" }),
  /** Encrypts environment variables for the database; without it they are kept as they are. One that all schedulers have. */
  ENV_KEY_FILE: Type.Optional(Type.String()),
  HOST_DATA_KEY_FILE: Type.String(),
  REGION: Type.String({ default: "local" }),
  /** Between saying that it will stop and taking no more connections: as long as a balancer needs to notice. */
  DRAIN_DELAY_MS: Type.Integer({ minimum: 0, maximum: 300_000, default: 0 }),
  /** For what is under way then. */
  SHUTDOWN_GRACE_MS: Type.Integer({ minimum: 100, default: 10_000 }),
});
export type Config = Static<typeof Environment>;

export const configFrom = (env: NodeJS.ProcessEnv): Config => loadConfig(Environment, env);
