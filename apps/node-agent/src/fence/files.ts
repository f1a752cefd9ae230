/**
 * Files in `<DATA_DIR>/fence`, through which the agent and the fence communicate. Each is written
 * beside its place and renamed, so that a reader sees the old or the new content.
 *
 * | file | written by | content |
 * |---|---|---|
 * | `lease.json` | agent, at each renewal, durably | end of this host's lease |
 * | `alive.json` | fence, twice a second | time at which the fence was alive |
 * | `frozen/<sandbox>.json` | fence, durably | process that is frozen, and since when |
 * | `permits/<sandbox>.json` | agent | process that the control plane permits to continue |
 */
import { mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { SandboxId } from "@torpor/contracts";
import { bootId, type ProcessIdentity } from "@torpor/service/processes";
import { readJson, removeDurably, writeDurably } from "../host/files.ts";
import { bootMs } from "./clock.ts";

/** Lease of this host. Times are those of `bootMs()`, in the boot `bootId`. */
export interface Lease {
  bootId: string;
  /** Since this time the host has had a lease without a gap. */
  sinceBootMs: number;
  /** End of the lease, counted from before the request. */
  untilBootMs: number;
}

interface Life extends ProcessIdentity {
  atBootMs: number;
}

/** A VMM, as its run.json names it. */
export interface Run extends ProcessIdentity {
  sandboxId: SandboxId;
  epoch: number;
}

export interface Frozen extends Run {
  /**
   * `cgroup`: everything in the VM's cgroup is frozen. `signal`: only the process, by SIGSTOP,
   * where VMs have no cgroup.
   */
  by: "cgroup" | "signal";
  /** Time at which the freeze was complete. */
  frozenAt: string;
  frozenAtBootMs: number;
}

export interface Permit extends Run {
  /**
   * `sinceBootMs` of the lease under which the permit was requested; under another one the permit
   * is void.
   */
  sinceBootMs: number;
}

/** Age of alive.json from which the fence counts as dead. */
const LIFE_LIMIT_MS = 3_000;

export class FenceFiles {
  readonly dataDir: string;
  private readonly dir: string;

  constructor(dataDir: string) {
    this.dataDir = dataDir;
    this.dir = join(dataDir, "fence");
  }

  async prepare(): Promise<void> {
    // Not 0700: the users of VMMs have to reach their own directories.
    await mkdir(this.dataDir, { recursive: true });
    for (const name of ["frozen", "permits"])
      await mkdir(join(this.dir, name), { recursive: true, mode: 0o700 });
  }

  /**
   * The lease on disk. Undefined if there is none, if it is of another boot, or if it cannot be
   * read.
   */
  async readLease(): Promise<Lease | undefined> {
    const lease = await this.read<Lease>("lease.json");
    return lease?.bootId === bootId() ? lease : undefined;
  }

  async writeLease(lease: Omit<Lease, "bootId">): Promise<void> {
    await this.prepare();
    await writeDurably(
      join(this.dir, "lease.json"),
      JSON.stringify({ ...lease, bootId: bootId() } satisfies Lease),
    );
  }

  async isFenceAlive(): Promise<boolean> {
    const life = await this.read<Life>("alive.json");
    return life?.bootId === bootId() && bootMs() - life.atBootMs <= LIFE_LIMIT_MS;
  }

  /** Writes alive.json. Not durable: the file is only about the present. */
  async writeLife(fence: ProcessIdentity): Promise<void> {
    const file = join(this.dir, "alive.json");
    await writeFile(
      `${file}.tmp`,
      JSON.stringify({ ...fence, atBootMs: bootMs() } satisfies Life),
      { mode: 0o600 },
    );
    await rename(`${file}.tmp`, file);
  }

  async listFrozen(): Promise<Frozen[]> {
    const names = await readdir(join(this.dir, "frozen")).catch(() => []);
    const all = await Promise.all(
      names
        .filter((name) => name.endsWith(".json"))
        .map((name) => this.read<Frozen>(`frozen/${name}`)),
    );
    return all.filter((frozen) => frozen !== undefined);
  }

  async readFrozen(sandboxId: SandboxId): Promise<Frozen | undefined> {
    return await this.read<Frozen>(`frozen/${sandboxId}.json`);
  }

  async writeFrozen(frozen: Frozen): Promise<void> {
    await writeDurably(
      join(this.dir, "frozen", `${frozen.sandboxId}.json`),
      JSON.stringify(frozen),
    );
  }

  async readPermit(sandboxId: SandboxId): Promise<Permit | undefined> {
    return await this.read<Permit>(`permits/${sandboxId}.json`);
  }

  async writePermit(permit: Permit): Promise<void> {
    await writeDurably(
      join(this.dir, "permits", `${permit.sandboxId}.json`),
      JSON.stringify(permit),
    );
  }

  /** Removes the frozen record and the permit of a sandbox. */
  async forget(sandboxId: SandboxId): Promise<void> {
    await removeDurably(join(this.dir, "frozen", `${sandboxId}.json`));
    await rm(join(this.dir, "permits", `${sandboxId}.json`), { force: true });
  }

  /** An unreadable file counts as missing: that is the side on which VMs are frozen. */
  private async read<T>(name: string): Promise<T | undefined> {
    return await readJson<T>(join(this.dir, name)).catch(() => undefined);
  }
}

export function isSameRun(a: Run, b: Run): boolean {
  return (
    a.pid === b.pid && a.startTime === b.startTime && a.bootId === b.bootId && a.epoch === b.epoch
  );
}
