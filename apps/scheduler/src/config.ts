import { loadConfig } from "@torpor/service";
import { type Static, Type } from "typebox";
import { DEFAULT_LEASE_MS } from "./answer-asks.ts";
import { PLACEMENT_POLICIES } from "./placement.ts";

const Environment = Type.Object({
  LOG_LEVEL: Type.String({ default: "info" }),
  DATABASE_URL: Type.String({ pattern: "^postgres(ql)?://" }),
  NATS_URL: Type.String({ pattern: "^(nats|tls)://" }),
  NATS_USER: Type.Optional(Type.String()),
  NATS_PASSWORD_FILE: Type.Optional(Type.String()),
  PLACEMENT_POLICY: Type.Enum(PLACEMENT_POLICIES, { default: "local-first" }),
  /** So many times the vCPUs that a host offers may be reserved there. The same for all schedulers. */
  VCPU_OVERCOMMIT: Type.Number({ minimum: 0.1, maximum: 64, default: 1 }),
  HEALTH_HOST: Type.String({ default: "127.0.0.1" }),
  HEALTH_PORT: Type.Integer({ minimum: 0, maximum: 65_535, default: 9300 }),
  /** Of the hosts. Shorter than 3 s, a lost renewal is a lost host. */
  LEASE_MS: Type.Integer({ minimum: 1_000, maximum: 600_000, default: DEFAULT_LEASE_MS }),
  SHUTDOWN_GRACE_MS: Type.Integer({ minimum: 100, default: 10_000 }),
});
export type Config = Static<typeof Environment>;

export const configFrom = (env: NodeJS.ProcessEnv): Config => loadConfig(Environment, env);
