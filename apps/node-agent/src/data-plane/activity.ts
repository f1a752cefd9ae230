/**
 * Time of the last use of each sandbox on this host, as far as its data plane sees. Idle sandboxes
 * are paused by it. Times are monotonic.
 */
import type { SandboxId } from "@torpor/contracts";
import type { HostActivity } from "../lifecycle/context.ts";

interface Use {
  lastAtMs: number;
  /** Requests without a response yet: an execution may be silent for long. */
  waiting: number;
}

/** A proxy request, from its first byte to its last. */
export interface ProxiedRequest {
  /** Reports that bytes were transferred. */
  touch: () => void;
  /** Reports that the response has begun. From then on, only transferred bytes count as use. */
  answered: () => void;
  end: () => void;
}

export class Activity implements HostActivity {
  private readonly uses = new Map<SandboxId, Use>();
  private readonly now: () => number;
  /** Uses before the start of this process are unknown, so idle time counts from here. */
  private readonly startedAtMs: number;

  constructor(now: () => number = () => performance.now()) {
    this.now = now;
    this.startedAtMs = now();
  }

  touch(sandboxId: SandboxId): void {
    this.useOf(sandboxId).lastAtMs = this.now();
  }

  begin(sandboxId: SandboxId): ProxiedRequest {
    const use = this.useOf(sandboxId);
    const touch = () => void (use.lastAtMs = this.now());
    let isWaiting = true;
    use.waiting += 1;
    touch();
    const answered = () => {
      touch();
      if (isWaiting) use.waiting -= 1;
      isWaiting = false;
    };
    return { touch, answered, end: answered };
  }

  idleMs(sandboxId: SandboxId): number {
    const use = this.uses.get(sandboxId);
    if (use !== undefined && use.waiting > 0) return 0;
    return Math.round(this.now() - (use?.lastAtMs ?? this.startedAtMs));
  }

  forget(sandboxId: SandboxId): void {
    this.uses.delete(sandboxId);
  }

  private useOf(sandboxId: SandboxId): Use {
    const use = this.uses.get(sandboxId) ?? { lastAtMs: this.startedAtMs, waiting: 0 };
    this.uses.set(sandboxId, use);
    return use;
  }
}
