import { NATS_CREDENTIALS } from "@torpor/bus";
import { TLS_SETTINGS, tlsFilesIn } from "@torpor/identity";
import { DEFAULT_PLACEMENT_POLICY, PLACEMENT_POLICIES } from "@torpor/placement";
import { loadConfig, LogLevel } from "@torpor/service";
import { type Static, Type } from "typebox";
import { HOST_ADMISSIONS } from "./hosts/admission.ts";
import { DEFAULT_HOST_TERMS } from "./deps.ts";
import { HostNetworks } from "./hosts/host-networks.ts";

const Environment = Type.Object({
  LOG_LEVEL: LogLevel,
  DATABASE_URL: Type.String({ pattern: "^postgres(ql)?://" }),
  /** Connections to the database, at most. */
  DATABASE_POOL_MAX: Type.Integer({ minimum: 2, maximum: 1_000, default: 10 }),
  NATS_URL: Type.String({ pattern: "^(nats|tls)://" }),
  /** Servers that keep each message; default: 3 where NATS_URL names three or more, else 1. */
  NATS_REPLICAS: Type.Optional(Type.Integer({ minimum: 1, maximum: 5 })),
  ...NATS_CREDENTIALS,
  ...TLS_SETTINGS,
  /** Encrypts environment variables in the database. Without it they are stored as plain text. */
  ENV_KEY_FILE: Type.Optional(Type.String()),
  /** Files with further keys, separated by commas: what they encrypted can still be read. */
  ENV_ACCEPTED_KEY_FILES: Type.String({ default: "" }),
  PLACEMENT_POLICY: Type.Enum(PLACEMENT_POLICIES, { default: DEFAULT_PLACEMENT_POLICY }),
  /**
   * Ratio of the vCPUs that may be reserved on a host to the vCPUs that the host offers. The same
   * for all schedulers.
   */
  VCPU_OVERCOMMIT: Type.Number({ minimum: 0.1, maximum: 64, default: 1 }),
  /** Networks that hosts may be in, separated by commas; default: any. */
  HOST_NETWORKS: Type.String({ default: "" }),
  /** `required`: a host must have joined (docs/operate/hosts.md) before it may register. */
  HOST_ADMISSION: Type.Enum(HOST_ADMISSIONS, { default: "required" }),
  /**
   * `required`: hosts must be reached over TLS. Hosts that this fleet has certified must be anyway.
   */
  HOST_TLS: Type.Enum(HOST_ADMISSIONS, { default: "optional" }),
  HEALTH_HOST: Type.String({ default: "127.0.0.1" }),
  HEALTH_PORT: Type.Integer({ minimum: 0, maximum: 65_535, default: 9300 }),
  /**
   * Long enough to survive a scheduler restart. With the half second between rounds
   * (reconcilers.ts), a lost host is noticed within 10 s. The same in every scheduler.
   */
  LEASE_MS: Type.Integer({ minimum: 500, maximum: 600_000, default: DEFAULT_HOST_TERMS.leaseMs }),
  /** Time after the end of a lease before a sandbox with `on_host_loss: restore` runs elsewhere. */
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
  // Both throw if their setting is wrong.
  void new HostNetworks(config.HOST_NETWORKS);
  tlsFilesIn(config);
  return config;
}
