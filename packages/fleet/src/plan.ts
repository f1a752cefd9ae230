/** The processes of a local fleet, and their settings. */
import type { DatabaseUser } from "@torpor/db";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { localProgram, type LocalProgram } from "@torpor/programs";
import { authorityFiles, tlsSettingsOf } from "./certificates.ts";
import { CONTROL_USER } from "./nats.ts";
import type { Component } from "./state.ts";

export interface FleetOptions {
  /** Root of the checkout. */
  root: string;
  /** Directory of everything that the fleet writes. */
  dir: string;
  imagesDir: string;
  /**
   * Makes missing images. Called after all checks that could stop the start, since it may take
   * minutes.
   */
  prepareImages?: () => Promise<void>;
  hosts: number;
  /** Hosts that are started elsewhere: the NATS servers know their keys (Fleet.joinSecrets). */
  guestHosts?: string[];
  /**
   * Addresses of the servers for such hosts, besides loopback: their certificate must contain them.
   */
  serverAddresses?: string[];
  /** All gateways listen on the same ports. */
  gateways: number;
  schedulers: number;
  /** Servers of the NATS cluster; 1: a single server. */
  natsServers?: number;
  driver: "qemu" | "simulated";
  /** 0: any free port. */
  gatewayPort: number;
  edgePort: number;
  /** Survives a power cut, at the price of syncs. */
  isDurable: boolean;
  /** Added to the environment of every node-agent. */
  hostEnv: Record<string, string>;
  /** Added to the environment of single node-agents, by id. */
  hostEnvs?: Record<string, Record<string, string>>;
  /** Added to the environment of every gateway. */
  gatewayEnv?: Record<string, string>;
  /** Added to the environment of every scheduler. */
  schedulerEnv?: Record<string, string>;
}

export interface Ports {
  postgres: number;
  nats: { client: number; monitor: number; route: number }[];
  api: number;
  /** Ports of the health reports. */
  gateways: number[];
  schedulers: number[];
  hosts: { health: number; dataPlane: number }[];
  edge: number;
}

export const hostIdAt = (index: number) => `host-${index + 1}`;
/** All hosts that may use the bus. */
export const hostIdsOf = ({
  hosts,
  guestHosts = [],
}: Pick<FleetOptions, "hosts" | "guestHosts">) => [
  ...Array.from({ length: hosts }, (_, at) => hostIdAt(at)),
  ...guestHosts,
];
/** File name of the NATS seed of the control side, or of a host. */
export const seedName = (name: string) => `nats-${name}.seed`;
export const secretFile = (dir: string, name: string) => join(dir, "secrets", name);

export const loopback = (port: number) => `127.0.0.1:${port}`;

/**
 * All components except Postgres and NATS, whose commands are known only after their preparation.
 */
export function planServices(
  options: FleetOptions,
  ports: Ports,
  urls: { databaseUrls: Record<DatabaseUser, string>; natsUrl: string },
): Component[] {
  const { dir } = options;
  const shared = {
    ...fromEnvironment([...MACHINE_SETTINGS, ...HOST_SETTINGS]),
    NATS_URL: urls.natsUrl,
    LOG_LEVEL: process.env["LOG_LEVEL"] ?? "info",
    SHUTDOWN_GRACE_MS: "5000",
  };
  const control = {
    ...shared,
    NATS_SEED_FILE: secretFile(dir, seedName(CONTROL_USER)),
    ENV_KEY_FILE: secretFile(dir, "env-key"),
  };
  const service = (
    name: string,
    role: Component["role"],
    program: LocalProgram,
    healthPort: number,
    env: Record<string, string>,
  ): Component => ({
    name,
    role,
    address: loopback(healthPort),
    healthUrl: `http://${loopback(healthPort)}/health`,
    command: process.execPath,
    args: [localProgram(program)],
    env,
    log: join(dir, "logs", `${name}.log`),
  });
  const schedulers = ports.schedulers.map((port, at) =>
    service(`scheduler-${at + 1}`, "scheduler", "scheduler", port, {
      ...control,
      ...tlsSettingsOf(dir, "scheduler"),
      HOST_TLS: "required",
      DATABASE_URL: urls.databaseUrls.scheduler,
      HEALTH_PORT: String(port),
      ...fromEnvironment(SCHEDULER_SETTINGS),
      ...options.schedulerEnv,
    }),
  );
  const hosts = ports.hosts.flatMap(({ health, dataPlane }, at) => {
    const hostId = hostIdAt(at);
    const env = {
      // The caller's environment overrides this.
      SNAPSHOT_STORE: "file",
      ...startsOf(options),
      ...shared,
      HOST_ID: hostId,
      NATS_SEED_FILE: secretFile(dir, seedName(hostId)),
      ...tlsSettingsOf(dir, hostId),
      HEALTH_PORT: String(health),
      DATA_PLANE_PORT: String(dataPlane),
      DATA_DIR: join(dir, "hosts", hostId),
      IMAGES_DIR: options.imagesDir,
      SNAPSHOT_STORE_DIR: join(dir, "snapshots"),
      DRIVER: options.driver,
      ...options.hostEnv,
      ...options.hostEnvs?.[hostId],
    };
    return [
      fenceOf(options, hostId, env.DATA_DIR),
      service(hostId, "node-agent", "node-agent", health, env),
    ];
  });
  const gateways = ports.gateways.map((port, at) => ({
    ...service(`gateway-${at + 1}`, "gateway", "gateway", port, {
      ...control,
      DATABASE_URL: urls.databaseUrls.gateway,
      LISTEN_PORT: String(ports.api),
      LISTEN_REUSE_PORT: String(ports.gateways.length > 1),
      HEALTH_PORT: String(port),
      EDGE_PORT: String(ports.edge),
      TOKEN_SECRET_FILE: secretFile(dir, "token-secret"),
      ...tlsSettingsOf(dir, "gateway"),
      FLEET_CA_CERT_FILE: authorityFiles(dir).certFile,
      FLEET_CA_KEY_FILE: authorityFiles(dir).keyFile,
      ...fromEnvironment(GATEWAY_SETTINGS),
      ...options.gatewayEnv,
    }),
    address: loopback(ports.api),
  }));
  return [...schedulers, ...hosts, ...gateways];
}

/** The hosts share the processors of this machine, which emulation keeps busy. */
function startsOf({ driver, hosts }: FleetOptions): Record<string, string> {
  if (driver !== "qemu") return {};
  return { STARTS_AT_ONCE: String(Math.max(1, Math.floor(availableParallelism() / hosts))) };
}

/**
 * Runs beside each agent: freezes VMs that may be restored elsewhere when the host's lease ends.
 */
function fenceOf({ dir }: FleetOptions, hostId: string, dataDir: string): Component {
  const name = `${hostId}-fence`;
  return {
    name,
    role: "fence",
    address: "-",
    healthFile: join(dataDir, "fence/alive.json"),
    command: process.execPath,
    args: [localProgram("fence")],
    env: { ...fromEnvironment(["PATH"]), DATA_DIR: dataDir },
    log: join(dir, "logs", `${name}.log`),
  };
}

/** Gateway settings that an operator may set for a local fleet. */
const GATEWAY_SETTINGS = [
  "PUBLIC_DOMAIN",
  "EDGE_DOMAIN_HOST",
  "EDGE_DOMAIN_PORT",
  "EDGE_TLS_CERT_FILE",
  "EDGE_TLS_KEY_FILE",
  "EDGE_PUBLIC_SCHEME",
  "EDGE_PUBLIC_PORT",
  "RATE_LIMIT_PER_MINUTE",
  "EDGE_RATE_LIMIT_PER_MINUTE",
  "REQUESTS_AT_ONCE_PER_KEY",
  "EDGE_REQUESTS_AT_ONCE",
  "GUESSES_PER_MINUTE",
  "CONNECTIONS_PER_ADDRESS",
  "CONNECTIONS_MAX",
  "TRUST_PROXY",
  "AUTO_RESUME_WAIT_MS",
];

/** Scheduler settings that an operator may set. */
const SCHEDULER_SETTINGS = ["PLACEMENT_POLICY", "VCPU_OVERCOMMIT"];

/** Host settings that an operator may set: capacity, and the snapshot store. */
const HOST_SETTINGS = [
  "EGRESS",
  "HOST_LABELS",
  "CAPACITY_VCPU",
  "CAPACITY_MEMORY_MIB",
  "CAPACITY_DISK_MIB",
  "STARTS_AT_ONCE",
  "SNAPSHOT_STORE",
  "S3_ENDPOINT",
  "S3_REGION",
  "S3_BUCKET",
  "S3_PREFIX",
  "S3_CREDENTIALS_FILE",
];

/** All settings of an operator's fleet, which do not apply to the fleets of tests. */
export const FLEET_SETTINGS: readonly string[] = [
  ...GATEWAY_SETTINGS,
  ...SCHEDULER_SETTINGS,
  ...HOST_SETTINGS,
];

/**
 * Variables that programs need from the caller's environment, and settings for VMs on this machine.
 */
const MACHINE_SETTINGS = [
  "PATH",
  "HOME",
  "TMPDIR",
  "LANG",
  "NODE_COMPILE_CACHE",
  "QEMU_BIN",
  "CLOUD_HYPERVISOR_BIN",
  "CLOUD_HYPERVISOR_DIR",
  "CLOUD_HYPERVISOR_LANDLOCK",
  "QEMU_ACCELERATOR",
  "ISOLATION",
  "VM_NETWORK_CIDR",
  "VM_NETWORK_POOL",
  "EGRESS_DNS",
  "UPLINK_NETNS",
];

function fromEnvironment(names: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    names.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]])),
  );
}
