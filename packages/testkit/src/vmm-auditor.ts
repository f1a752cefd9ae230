/**
 * Checks, using only the kernel's process list, that no sandbox of a fleet ever has two VMMs at
 * once that are not frozen. Every process with a working directory `hosts/<host>/vm/<sandbox>`
 * counts as a VMM of that sandbox, recorded or not. If VMMs can be inspected (`vcpusRun`), a VMM
 * that has restored but still has its vCPUs paused, because its host waits for a reply, does not
 * count.
 */
import { once } from "node:events";
import { readdirSync, readFileSync, readlinkSync, realpathSync } from "node:fs";
import { connect } from "node:net";
import { join, sep } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type HostId,
  type SandboxId,
  unverifiedHostId,
  unverifiedSandboxId,
} from "@torpor/contracts";
import { identify, isKilled, type ProcessIdentity, stateOf } from "@torpor/service/processes";

const LOOK_EVERY_MS = 40;
const REQUEST_LIMIT_MS = 1_000;

interface Seen extends ProcessIdentity {
  hostId: HostId;
  sandboxId: SandboxId;
}

/** VMMs that ran at the same moment. */
export interface Overlap {
  at: string;
  sandboxId: SandboxId;
  vmms: Seen[];
}

export class VmmAuditor implements AsyncDisposable {
  readonly overlaps: Overlap[] = [];
  /** Number of checks so far. */
  looks = 0;
  private readonly hostsDir: string;
  private readonly stopped = new AbortController();
  private readonly loop: Promise<void>;

  private readonly vcpusRun: ((pid: number) => Promise<boolean>) | undefined;

  private constructor(fleetDir: string, vcpusRun: ((pid: number) => Promise<boolean>) | undefined) {
    this.vcpusRun = vcpusRun;
    this.hostsDir = join(realpathSync(fleetDir), "hosts");
    this.loop = this.watch();
  }

  static over(fleetDir: string, vcpusRun?: (pid: number) => Promise<boolean>): VmmAuditor {
    return new VmmAuditor(fleetDir, vcpusRun);
  }

  private async watch(): Promise<void> {
    while (!this.stopped.signal.aborted) {
      await this.look();
      this.looks += 1;
      await sleep(LOOK_EVERY_MS);
    }
  }

  private async look(): Promise<void> {
    const bySandbox = Map.groupBy(this.vmms(), ({ sandboxId }) => sandboxId);
    for (const [sandboxId, vmms] of bySandbox) {
      if (vmms.length < 2) continue;
      // Checks again in reverse order: a VMM that stopped in between did not run at the same time
      // as one that was found after it.
      const still = await this.running(vmms.toReversed().filter(runs));
      if (still.length > 1)
        this.overlaps.push({ at: new Date().toISOString(), sandboxId, vmms: still });
    }
  }

  /** VMMs that ran at the same time as the first one, which is inspected again after the others. */
  private async running(vmms: Seen[]): Promise<Seen[]> {
    if (this.vcpusRun === undefined || vmms.length < 2) return vmms;
    const found: Seen[] = [];
    for (const seen of vmms) if (await this.vcpusRun(seen.pid)) found.push(seen);
    const [first] = found;
    return first !== undefined && (await this.vcpusRun(first.pid)) ? found : [];
  }

  private vmms(): Seen[] {
    const found: Seen[] = [];
    for (const entry of readdirSync("/proc")) {
      const pid = Number(entry);
      if (!Number.isInteger(pid)) continue;
      try {
        const cwd = readlinkSync(`/proc/${pid}/cwd`);
        if (!cwd.startsWith(this.hostsDir + sep)) continue;
        const [hostId, kind, sandboxId] = cwd.slice(this.hostsDir.length + 1).split(sep);
        const identity = identify(pid);
        if (
          hostId === undefined ||
          kind !== "vm" ||
          sandboxId === undefined ||
          identity === undefined
        )
          continue;
        const seen = {
          ...identity,
          hostId: unverifiedHostId(hostId),
          sandboxId: unverifiedSandboxId(sandboxId),
        };
        if (runs(seen)) found.push(seen);
      } catch {
        // The process has ended.
      }
    }
    return found;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stopped.abort();
    await this.loop;
  }
}

/** True for a process that is alive, not killed, and not frozen by a signal or its cgroup. */
function runs(identity: ProcessIdentity): boolean {
  const state = stateOf(identity);
  return (
    state !== undefined &&
    !["T", "Z", "X"].includes(state) &&
    !isKilled(identity.pid) &&
    !isInFrozenCgroup(identity.pid)
  );
}

function isInFrozenCgroup(pid: number): boolean {
  try {
    const path = /^0::(.*)$/m.exec(readFileSync(`/proc/${pid}/cgroup`, "utf8"))?.[1] ?? "/";
    const mount = /^\S+ (\S+) cgroup2 /m.exec(readFileSync("/proc/self/mounts", "utf8"))?.[1];
    if (path === "/" || mount === undefined) return false;
    return /^frozen 1$/m.test(readFileSync(join(mount, path, "cgroup.events"), "utf8"));
  } catch {
    return false;
  }
}

/**
 * Inspects a VMM of the simulated driver. A frozen VMM does not reply, and counts as not running.
 */
export async function simulatedVcpusRun(pid: number): Promise<boolean> {
  try {
    // Arguments end with: run directory, port.
    const runDir = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").at(-3) ?? "";
    const socket = connect(`/proc/${pid}/cwd/${runDir}/control.sock`);
    const signal = AbortSignal.timeout(REQUEST_LIMIT_MS);
    try {
      await once(socket, "connect", { signal });
      socket.end("status\n");
      const [answer] = (await once(socket, "data", { signal })) as [Buffer];
      return answer.toString() === "running";
    } finally {
      socket.destroy();
    }
  } catch {
    return false;
  }
}
