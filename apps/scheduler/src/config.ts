import { NATS_CREDENTIALS } from "@torpor/bus";
import { TLS_SETTINGS, tlsFilesIn } from "@torpor/identity";
import { DEFAULT_PLACEMENT_POLICY, PLACEMENT_POLICIES } from "@torpor/placement";
import { loadConfig, LogLevel } from "@torpor/service";
import { type Static, Type } from "typebox";
import { HOST_ADMISSIONS } from "./admission.ts";
import { DEFAULT_HOST_TERMS } from "./deps.ts";
import { HostNetworks } from "./host-networks.ts";

const Environment = Type.Object({
  LOG_LEVEL: LogLevel,
  DATABASE_URL: Type.String({ pattern: "^postgres(ql)?://" }),
  /** Connections to the database, at most. */
  DATABASE_POOL_MAX: Type.Integer({ minimum: 2, maximum: 1_000, default: 10 }),
  NATS_URL: Type.String({ pattern: "^(nats|tls)://" }),
  /**
   * On how many servers each message is kept; default: 3 where NATS_URL names three or more,
   * else 1.
   */
  NATS_REPLICAS: Type.Optional(Type.Integer({ minimum: 1, maximum: 5 })),
  ...NATS_CREDENTIALS,
  ...TLS_SETTINGS,
  /** Encrypts environment variables in the database; without it they are kept as they are. */
  ENV_KEY_FILE: Type.Optional(Type.String()),
  /** Files with further keys, with commas between them: what they encrypted is still read. */
  ENV_ACCEPTED_KEY_FILES: Type.String({ default: "" }),
  PLACEMENT_POLICY: Type.Enum(PLACEMENT_POLICIES, { default: DEFAULT_PLACEMENT_POLICY }),
  /**
   * So many times the vCPUs that a host offers may be reserved there. The same for all schedulers.
   */
  VCPU_OVERCOMMIT: Type.Number({ minimum: 0.1, maximum: 64, default: 1 }),
  /** Networks that hosts may be in, with commas between them; default: any. */
  HOST_NETWORKS: Type.String({ default: "" }),
  /** Whether a host has to have joined (docs/operate/hosts.md) before it may register. */
  HOST_ADMISSION: Type.Enum(HOST_ADMISSIONS, { default: "required" }),
  /**
   * Whether hosts have to be reached by TLS. Those that this fleet has certified have to anyway.
   */
  HOST_TLS: Type.Enum(HOST_ADMISSIONS, { default: "optional" }),
  HEALTH_HOST: Type.String({ default: "127.0.0.1" }),
  HEALTH_PORT: Type.Integer({ minimum: 0, maximum: 65_535, default: 9300 }),
  /**
   * Long enough to ride out a scheduler restart; with the half second in which it is looked for
   * (reconcilers.ts), a lost host is seen within 10 s. The same in every scheduler.
   */
  LEASE_MS: Type.Integer({ minimum: 500, maximum: 600_000, default: DEFAULT_HOST_TERMS.leaseMs }),
  /**
   * Waited after a lease has ended, before a sandbox with `on_host_loss: restore` is run elsewhere.
   */
  HOST_LOSS_MARGIN_MS: Type.Integer({
    minimum: 500,
    maximum: 600_000,
    default: DEFAULT_HOST_TERMS.lossMarginMs,
  }),
  SHUTDOWN_GRACE_MS: Type.Integer({ minimum: 100, default: 10_000 }),
});
export type SchedulerConfig = Static<typeof Environment>;

export function configFrom(env: NodeJS.ProcessEnv): SchedulerConfig {
  const config = loadConfig(Environment, env);
  // They throw what is wrong with it.
  void new HostNetworks(config.HOST_NETWORKS);
  tlsFilesIn(config);
  return config;
}
