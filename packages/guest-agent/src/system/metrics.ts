/**
 * /metrics, /metrics/snapshot, /metrics/prometheus: the activity of the agent and the machine, read
 * from /proc.
 */
import { statfs } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import type { GuestActivity } from "../activity.ts";
import type { GuestAgentConfig } from "../config.ts";
import type { BackgroundExecutions } from "../execution/background.ts";
import type { IdempotencyMemory } from "../execution/idempotency.ts";
import type { Runner } from "../execution/runner.ts";
import { Reply } from "../http/reply.ts";
import type { Route } from "../http/router.ts";
import type { SystemCounters } from "./counters.ts";
import { cpuCount, cpuTimes, listProcesses, memory, round } from "./proc.ts";

export interface MetricsDeps {
  config: GuestAgentConfig;
  activity: GuestActivity;
  counters: SystemCounters;
  runner: Runner;
  background: BackgroundExecutions;
  idempotency: IdempotencyMemory;
}

/**
 * CPU usage covers the time since the last call. If that is less than NEWEST_MS or more than
 * OLDEST_MS ago, it covers the next MOMENT_MS instead.
 */
const [NEWEST_MS, OLDEST_MS, MOMENT_MS] = [50, 15_000, 100];

export function metricsRoutes(deps: MetricsDeps): Route[] {
  const cpu = new CpuUsage();
  return [
    { method: "GET", path: "/metrics", handle: () => snapshot(deps, cpu) },
    { method: "GET", path: "/metrics/snapshot", handle: () => snapshot(deps, cpu) },
    {
      method: "GET",
      path: "/metrics/prometheus",
      handle: async () => prometheus(await snapshot(deps, cpu)),
    },
  ];
}

class CpuUsage {
  private last: { busy: number; total: number; atMs: number } | undefined;

  async percent(): Promise<number> {
    const ageMs = performance.now() - (this.last?.atMs ?? Number.NEGATIVE_INFINITY);
    if (ageMs < NEWEST_MS || ageMs > OLDEST_MS) {
      this.last = { ...cpuTimes(), atMs: performance.now() };
      await sleep(MOMENT_MS);
    }
    const [before, now] = [this.last, cpuTimes()];
    this.last = { ...now, atMs: performance.now() };
    const total = now.total - (before?.total ?? 0);
    return total <= 0 ? 0 : round((100 * (now.busy - (before?.busy ?? 0))) / total);
  }
}

async function snapshot(
  { config, activity, counters, runner, background, idempotency }: MetricsDeps,
  cpu: CpuUsage,
) {
  const processes = listProcesses();
  const { avg, p95 } = counters.durations();
  const own = process.memoryUsage();
  return {
    timestamp: new Date().toISOString(),
    uptime_seconds: Math.round(process.uptime()),
    total_executions: runner.startedTotal,
    active_executions: activity.activeExecutions,
    background_executions: background.list().filter(({ isRunning }) => isRunning).length,
    active_streams: activity.openStreams,
    requests_total: counters.requests,
    total_requests: counters.requests,
    requests_by_endpoint: counters.endpoints(),
    error_count: counters.errors,
    total_errors: counters.errors,
    avg_duration_ms: avg,
    p95_duration_ms: p95,
    system: {
      cpu: { usage_percent: await cpu.percent(), cores: cpuCount() },
      memory: memory(),
      disk: await disk(config.workdir),
    },
    process: {
      count: processes.length,
      running: processes.filter(({ status }) => status === "running").length,
    },
    agent: { memory_bytes: own.rss, heap_bytes: own.heapUsed },
    cache: idempotency.stats(),
  };
}

type Snapshot = Awaited<ReturnType<typeof snapshot>>;

async function disk(path: string) {
  const facts = await statfs(path).catch(() => undefined);
  if (facts === undefined) return { total: 0, used: 0, free: 0, usage_percent: 0 };
  const [total, free] = [facts.blocks * facts.bsize, facts.bavail * facts.bsize];
  return {
    total,
    used: total - free,
    free,
    usage_percent: total === 0 ? 0 : round((100 * (total - free)) / total),
  };
}

/** The text format of Prometheus. */
function prometheus(snap: Snapshot): Reply {
  const { cpu, memory: ram, disk: space } = snap.system;
  const metrics: [string, "counter" | "gauge", number][] = [
    ["torpor_agent_uptime_seconds", "gauge", snap.uptime_seconds],
    ["torpor_agent_requests_total", "counter", snap.total_requests],
    ["torpor_agent_errors_total", "counter", snap.total_errors],
    ["torpor_agent_executions_total", "counter", snap.total_executions],
    ["torpor_agent_active_executions", "gauge", snap.active_executions],
    ["torpor_agent_open_streams", "gauge", snap.active_streams],
    ["torpor_agent_memory_bytes", "gauge", snap.agent.memory_bytes],
    ["torpor_sandbox_cpu_usage_percent", "gauge", cpu.usage_percent],
    ["torpor_sandbox_cpu_cores", "gauge", cpu.cores],
    ["torpor_sandbox_memory_total_bytes", "gauge", ram.total],
    ["torpor_sandbox_memory_used_bytes", "gauge", ram.used],
    ["torpor_sandbox_disk_total_bytes", "gauge", space.total],
    ["torpor_sandbox_disk_used_bytes", "gauge", space.used],
    ["torpor_sandbox_processes", "gauge", snap.process.count],
  ];
  const text = metrics
    .map(([name, kind, value]) => `# TYPE ${name} ${kind}\n${name} ${value}\n`)
    .join("");
  return new Reply(
    200,
    { "content-type": "text/plain; version=0.0.4; charset=utf-8" },
    Buffer.from(text),
  );
}
