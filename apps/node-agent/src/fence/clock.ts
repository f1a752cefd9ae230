/**
 * The clock that leases are counted by: CLOCK_BOOTTIME, which nobody can set and which goes on
 * while the machine sleeps.
 */
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

/** When the process was started, by the same clock. */
export function startedAtBootMs({ startTime }: Pick<ProcessIdentity, "startTime">): number {
  return Number(startTime) * TICK_MS;
}
