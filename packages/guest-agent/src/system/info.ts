/** /, /health, /info, /ping, /system: identity and state of this agent. Open, without a key. */
import {
  arch,
  cpus,
  hostname,
  loadavg,
  networkInterfaces,
  platform,
  release,
  uptime,
} from "node:os";
import type { GuestActivity } from "../activity.ts";
import type { GuestAgentConfig } from "../config.ts";
import type { PythonKernel } from "../execution/python-kernel.ts";
import type { Route } from "../http/router.ts";
import type { SystemCounters } from "./counters.ts";
import type { GuestIdentity } from "./identity.ts";
import { memory } from "./proc.ts";

export interface InfoDeps {
  config: GuestAgentConfig;
  identity: GuestIdentity;
  kernel: PythonKernel;
  activity: GuestActivity;
  counters: SystemCounters;
  /** All served paths, for /info. */
  paths(): string[];
}

const FEATURES = {
  code_execution: true,
  rich_output: true,
  streaming: true,
  background_execution: true,
  async_execution: true,
  file_operations: true,
  file_watching: true,
  terminal: true,
  commands: true,
  environment: true,
  metrics: true,
  idempotency: true,
  desktop: false,
};

export function infoRoutes(deps: InfoDeps): Route[] {
  const startedAt = new Date();
  const open = (path: string, handle: () => unknown): Route => ({
    method: "GET",
    path,
    access: "open",
    handle,
  });
  return [
    open("/health", () => health(deps)),
    open("/info", () => info(deps, startedAt)),
    open("/", () => info(deps, startedAt)),
    open("/ping", () => ({ pong: true, timestamp: new Date().toISOString() })),
    open("/system", () => system(deps)),
  ];
}

/** Uptimes use the monotonic clock: a restore sets the other one. */
function common({ config, identity }: InfoDeps) {
  const uptimeS = Math.round(process.uptime());
  return {
    agent: "torpor",
    version: config.version,
    vm_id: identity.sandboxId ?? hostname(),
    uptime: `${uptimeS}s`,
    uptime_seconds: uptimeS,
    features: FEATURES,
  };
}

function health(deps: InfoDeps) {
  return {
    status: "healthy",
    ...common(deps),
    go_version: "",
    active_streams: deps.activity.openStreams,
    ready: deps.kernel.isStarted,
    timestamp: new Date().toISOString(),
  };
}

function info(deps: InfoDeps, startedAt: Date) {
  return {
    ...common(deps),
    agent_version: deps.config.version,
    os: platform(),
    arch: arch(),
    kernel: release(),
    vm_ip: addressOf(),
    vm_port: String(deps.config.port),
    start_time: startedAt.toISOString(),
    endpoints: Object.fromEntries(
      deps
        .paths()
        .map((path) => [path.slice(1).replaceAll("/", "_").replaceAll(":", "") || "root", path]),
    ),
  };
}

function system({ counters }: InfoDeps) {
  return {
    hostname: hostname(),
    os: platform(),
    arch: arch(),
    kernel: release(),
    uptime_seconds: Math.round(uptime()),
    load_average: loadavg(),
    cpu: { cores: cpus().length },
    memory: memory(),
    requests_total: counters.requests,
    error_count: counters.errors,
  };
}

function addressOf(): string {
  const addresses = Object.values(networkInterfaces()).flatMap((entries) => entries ?? []);
  return (
    addresses.find((entry) => entry.family === "IPv4" && !entry.internal)?.address ?? "127.0.0.1"
  );
}
