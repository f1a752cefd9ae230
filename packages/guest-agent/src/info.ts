import { arch, cpus, freemem, hostname, loadavg, networkInterfaces, platform, release, totalmem, uptime } from "node:os";
import type { Config } from "./config.ts";
import type { Identity } from "./identity.ts";
import type { PythonKernel } from "./python-kernel.ts";
import type { Route } from "./server.ts";

export interface Counters {
  requests: number;
  errors: number;
}

const FEATURES = { code_execution: true, file_operations: true, commands: true, environment: true, desktop: false };

/** /health, /info and /ping: open, as in the contract. */
export function infoRoutes(config: Config, identity: Identity, kernel: PythonKernel, counters: Counters, paths: () => string[]): Route[] {
  const startedAt = new Date();
  const uptimeSeconds = () => Math.round((Date.now() - startedAt.getTime()) / 1000);
  const common = () => ({
    agent: "torpor",
    version: config.version,
    vm_id: identity.sandboxId ?? hostname(),
    uptime: `${uptimeSeconds()}s`,
    uptime_seconds: uptimeSeconds(),
    features: FEATURES,
  });
  const health = () => ({
    status: "healthy",
    ...common(),
    go_version: "",
    active_streams: 0,
    ready: kernel.isStarted,
    timestamp: new Date().toISOString(),
  });
  const info = () => ({
    ...common(),
    agent_version: config.version,
    os: platform(),
    arch: arch(),
    kernel: release(),
    vm_ip: addressOf(),
    vm_port: String(config.port),
    start_time: startedAt.toISOString(),
    endpoints: Object.fromEntries(paths().map((path) => [path.slice(1).replaceAll("/", "_"), path])),
  });
  const system = () => ({
    uptime_seconds: Math.round(uptime()),
    load_average: loadavg(),
    cpu: { cores: cpus().length },
    memory: { total: totalmem(), free: freemem(), used: totalmem() - freemem() },
    requests_total: counters.requests,
    error_count: counters.errors,
  });
  return [
    { method: "GET", path: "/health", access: "open", handle: health },
    { method: "GET", path: "/info", access: "open", handle: info },
    { method: "GET", path: "/ping", access: "open", handle: () => ({ pong: true }) },
    { method: "GET", path: "/system", access: "open", handle: system },
  ];
}

function addressOf(): string {
  const addresses = Object.values(networkInterfaces()).flatMap((entries) => entries ?? []);
  return addresses.find((entry) => entry.family === "IPv4" && !entry.internal)?.address ?? "127.0.0.1";
}
