/** Access for a story besides the API: to the VMM processes on the hosts. */
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

export interface DemoStage {
  url: string;
  apiKey: string;
  hosts: StageHost[];
}

export interface StageHost {
  id: string;
  /** Health address of the host's node-agent. */
  healthUrl: string;
  /** Resident memory of a process on that host; undefined when the process has ended. */
  residentBytes(pid: number): Promise<number | undefined>;
}

export interface VmSeen {
  host: StageHost;
  pid: number;
  residentBytes: number;
}

/** The VMM process of a sandbox, on any host; undefined when no host has one. */
export async function findVmm(stage: DemoStage, sandboxId: string): Promise<VmSeen | undefined> {
  for (const host of stage.hosts) {
    const health = (await getJson(host.healthUrl)) as {
      vms?: { sandboxId: string; pid?: number }[];
    };
    const pid = health.vms?.find((vm) => vm.sandboxId === sandboxId)?.pid;
    const residentBytes = pid === undefined ? undefined : await host.residentBytes(pid);
    if (pid !== undefined && residentBytes !== undefined) return { host, pid, residentBytes };
  }
  return undefined;
}

/** Resident memory of a process on this machine. */
export async function residentBytesHere(pid: number): Promise<number | undefined> {
  return residentBytesIn(await readFile(`/proc/${pid}/status`, "utf8").catch(() => ""));
}

/**
 * Resident memory from the text of /proc/<pid>/status; undefined without a process, or for a
 * zombie, which has no memory.
 */
export function residentBytesIn(status: string): number | undefined {
  const match = /^VmRSS:\s+(\d+) kB$/m.exec(status);
  return match?.[1] === undefined ? undefined : Number(match[1]) * 1024;
}

/** Calls the public API; parses the body for any status. */
export async function call(
  stage: DemoStage,
  method: string,
  path: string,
  body?: unknown,
): Promise<{ status: number; body: Record<string, unknown> }> {
  const response = await fetch(new URL(path, stage.url), {
    method,
    headers: {
      "x-api-key": stage.apiKey,
      ...(body === undefined ? {} : { "content-type": "application/json" }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(60_000),
  });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

/** Polls until `look` returns a value, for at most `limitMs`. */
export async function eventually<T>(
  what: string,
  limitMs: number,
  look: () => Promise<T | undefined>,
): Promise<T> {
  const deadline = performance.now() + limitMs;
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    if (performance.now() > deadline)
      throw new Error(`${what} did not come true within ${limitMs / 1000} s`);
    await sleep(100);
  }
}

async function getJson(url: string): Promise<unknown> {
  return await (await fetch(url, { signal: AbortSignal.timeout(10_000) })).json();
}
