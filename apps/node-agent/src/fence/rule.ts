/** The rule that the fence enforces, as pure functions. */
import { startedAtBootMs } from "./clock.ts";
import { type Frozen, isSameRun, type Lease, type Permit, type Run } from "./files.ts";

export interface Guarded {
  run: Run;
  frozen?: Frozen | undefined;
  permit?: Permit | undefined;
}

/**
 * True if the host has had its lease since before the VM was started: then the control plane cannot
 * have given the sandbox to another host. A VM that existed while there was no lease may have been
 * replaced, so it stays frozen until it is permitted under the current lease.
 */
export function mayRun(
  { run, frozen, permit }: Guarded,
  lease: Lease | undefined,
  nowBootMs: number,
): boolean {
  if (lease === undefined || nowBootMs >= lease.untilBootMs) return false;
  if (permit !== undefined && isSameRun(permit, run) && permit.sinceBootMs === lease.sinceBootMs)
    return true;
  const isFrozen = frozen !== undefined && isSameRun(frozen, run);
  return !isFrozen && startedAtBootMs(run) >= lease.sinceBootMs;
}

/**
 * Lease after one more renewal. There is no gap only if the reply arrived before the previous lease
 * ended: a later reply may have been given when the host was already lost.
 */
export function renewed(
  before: Lease | undefined,
  renewal: { askedAtBootMs: number; answeredAtBootMs: number; leaseMs: number },
): Omit<Lease, "bootId"> {
  const { askedAtBootMs, answeredAtBootMs, leaseMs } = renewal;
  const isUnbroken = before !== undefined && answeredAtBootMs < before.untilBootMs;
  return {
    // A VM of the previous lease may have started after this request: only the reply is certainly
    // after the gap.
    sinceBootMs: isUnbroken ? before.sinceBootMs : answeredAtBootMs,
    untilBootMs: Math.max(isUnbroken ? before.untilBootMs : 0, askedAtBootMs + leaseMs),
  };
}
