/** The rule that the fence enforces, without anything that does it. */
import { startedAtBootMs } from "./clock.ts";
import { type Frozen, isSameRun, type Lease, type Permit, type Run } from "./files.ts";

export interface Guarded {
  run: Run;
  frozen?: Frozen | undefined;
  permit?: Permit | undefined;
}

/**
 * A VM may run while the host has its lease and has had it since before the VM was started: then
 * the control plane cannot have given the sandbox to another host. One that was there while there
 * was no lease may have been replaced, so it stands until it is permitted, under the lease that
 * runs now.
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
 * The lease after one more renewal. Without a gap it counts only if the answer was there before the
 * one before it had ended: an answer that comes later may have been given when the host was lost
 * already.
 */
export function renewed(
  before: Lease | undefined,
  renewal: { askedAtBootMs: number; answeredAtBootMs: number; leaseMs: number },
): Omit<Lease, "bootId"> {
  const { askedAtBootMs, answeredAtBootMs, leaseMs } = renewal;
  const isUnbroken = before !== undefined && answeredAtBootMs < before.untilBootMs;
  return {
    // A VM of the lease before may have been started after this one was asked for: only the answer
    // is after the gap for sure.
    sinceBootMs: isUnbroken ? before.sinceBootMs : answeredAtBootMs,
    untilBootMs: Math.max(isUnbroken ? before.untilBootMs : 0, askedAtBootMs + leaseMs),
  };
}
