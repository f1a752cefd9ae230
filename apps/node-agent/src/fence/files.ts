/**
 * What the agent and the fence tell each other: files in `<DATA_DIR>/fence`, each written beside
 * and renamed, so that a reader sees the old or the new.
 *
 * | file | written by | says |
 * |---|---|---|
 * | `lease.json` | agent, at each renewal, durably | until when this host has its lease |
 * | `alive.json` | fence, twice a second | that the fence looks after it |
 * | `frozen/<sandbox>.json` | fence, durably | which process it has frozen, and when |
 * | `permits/<sandbox>.json` | agent | that the control plane lets that process go on |
 */
import { mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { bootId, type ProcessIdentity } from "@torpor/service/processes";
import { readJson, removeDurably, writeDurably } from "../host/files.ts";
import { bootMs } from "./clock.ts";

/** Times are those of `bootMs()`, in the boot that is named. */
export interface Lease {
  bootId: string;
  /** Since then the host has had a lease without a gap. */
  sinceBootMs: number;
  /** Counted from before it was asked for. */
  untilBootMs: number;
}

interface Life extends ProcessIdentity {
  atBootMs: number;
}

/** A VMM, as its run.json names it. */
export interface Run extends ProcessIdentity {
  sandboxId: string;
  epoch: number;
}

export interface Frozen extends Run {
  /**
   * `cgroup`: all that is in the VM's cgroup. `signal`: the process alone, by SIGSTOP, where VMs
   * have no cgroup.
   */
  by: "cgroup" | "signal";
  /** Once it stood. */
  frozenAt: string;
  frozenAtBootMs: number;
}

export interface Permit extends Run {
  /**
   * `sinceBootMs` of the lease under which it was asked for; under another one it is worth nothing.
   */
  sinceBootMs: number;
}

/** A fence that has said nothing for longer is taken for dead. */
const LIFE_LIMIT_MS = 3_000;

export class FenceFiles {
  readonly dataDir: string;
  private readonly dir: string;

  constructor(dataDir: string) {
    this.dataDir = dataDir;
    this.dir = join(dataDir, "fence");
  }

  async prepare(): Promise<void> {
    // Users of VMMs have to get through to their own directories.
    await mkdir(this.dataDir, { recursive: true });
    for (const name of ["frozen", "permits"])
      await mkdir(join(this.dir, name), { recursive: true, mode: 0o700 });
  }

  /**
   * Undefined: this host has none. One of another boot is none, and neither is one that cannot be
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

  /** Not durable: it is about now. */
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

  async readFrozen(sandboxId: string): Promise<Frozen | undefined> {
    return await this.read<Frozen>(`frozen/${sandboxId}.json`);
  }

  async writeFrozen(frozen: Frozen): Promise<void> {
    await writeDurably(
      join(this.dir, "frozen", `${frozen.sandboxId}.json`),
      JSON.stringify(frozen),
    );
  }

  async readPermit(sandboxId: string): Promise<Permit | undefined> {
    return await this.read<Permit>(`permits/${sandboxId}.json`);
  }

  async writePermit(permit: Permit): Promise<void> {
    await writeDurably(
      join(this.dir, "permits", `${permit.sandboxId}.json`),
      JSON.stringify(permit),
    );
  }

  /** Nothing is frozen of it any more. */
  async forget(sandboxId: string): Promise<void> {
    await removeDurably(join(this.dir, "frozen", `${sandboxId}.json`));
    await rm(join(this.dir, "permits", `${sandboxId}.json`), { force: true });
  }

  /** What cannot be read is not there: of the two, that is the side on which VMs are frozen. */
  private async read<T>(name: string): Promise<T | undefined> {
    return await readJson<T>(join(this.dir, name)).catch(() => undefined);
  }
}

export function isSameRun(a: Run, b: Run): boolean {
  return (
    a.pid === b.pid && a.startTime === b.startTime && a.bootId === b.bootId && a.epoch === b.epoch
  );
}
