/**
 * Watches, from the kernel's process list alone, that no sandbox of a fleet has two VMMs at once
 * that do not stand frozen. Whatever works in `hosts/<host>/vm/<sandbox>` counts as a VMM of that
 * sandbox, recorded or not. Where VMMs can be asked (`vcpusRun`), one that has restored and was not
 * let run, as its host waits for an answer that does not come, is no run.
 */
import { once } from "node:events";
import { readdirSync, readFileSync, readlinkSync, realpathSync } from "node:fs";
import { connect } from "node:net";
import { join, sep } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { identify, isKilled, type ProcessIdentity, stateOf } from "@torpor/service/processes";

const LOOK_EVERY_MS = 40;
const ASK_LIMIT_MS = 1_000;

interface Seen extends ProcessIdentity {
  hostId: string;
  sandboxId: string;
}

/** Both ran, at one moment. */
export interface Overlap {
  at: string;
  sandboxId: string;
  vmms: Seen[];
}

export class VmmAuditor implements AsyncDisposable {
  readonly overlaps: Overlap[] = [];
  /** Looks so far. */
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
      // Again, in the other order: one that has stopped in between did not run beside one that was
      // seen after it.
      const still = await this.running(vmms.toReversed().filter(runs));
      if (still.length > 1)
        this.overlaps.push({ at: new Date().toISOString(), sandboxId, vmms: still });
    }
  }

  /** Those that ran beside the first of them: that is asked once more after the others. */
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
        const seen = { ...identity, hostId, sandboxId };
        if (runs(seen)) found.push(seen);
      } catch {
        // It ended meanwhile.
      }
    }
    return found;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stopped.abort();
    await this.loop;
  }
}

/** Alive, and neither frozen, by a signal or with its cgroup, nor killed. */
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

/** Asks a VMM of the simulated driver. One that stands frozen gives no answer. */
export async function simulatedVcpusRun(pid: number): Promise<boolean> {
  try {
    // …, run directory, port.
    const runDir = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").at(-3) ?? "";
    const socket = connect(`/proc/${pid}/cwd/${runDir}/control.sock`);
    const signal = AbortSignal.timeout(ASK_LIMIT_MS);
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
