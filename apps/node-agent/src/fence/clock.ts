/** Clock of the leases: CLOCK_BOOTTIME, which cannot be set and runs while the machine sleeps. */
import { readFileSync } from "node:fs";
import type { ProcessIdentity } from "@torpor/service/processes";

/**
 * Field 22 of /proc/<pid>/stat counts in hundredths of a second (USER_HZ), on every machine that
 * Node.js runs on.
 */
const TICK_MS = 10;

/** Milliseconds since the machine was booted, in steps of 10. */
export function bootMs(): number {
  return Math.round(Number(readFileSync("/proc/uptime", "utf8").split(" ")[0]) * 1000);
}

/** Start of the process on the same clock, in milliseconds. */
export function startedAtBootMs({ startTime }: Pick<ProcessIdentity, "startTime">): number {
  return Number(startTime) * TICK_MS;
}
