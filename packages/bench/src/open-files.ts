/**
 * How many files a program may have open here: sockets count, and each program of a fleet has many.
 */
import { readFileSync } from "node:fs";

/** Of what each program opens for itself. */
const RESERVE = 512;

/** What this process and those that it starts may have; Infinity without a limit. */
export function openFilesLimit(limits = readFileSync("/proc/self/limits", "utf8")): number {
  const text = /^Max open files\s+(\S+)/m.exec(limits)?.[1] ?? "unlimited";
  return text === "unlimited" ? Number.POSITIVE_INFINITY : Number(text);
}

/** Throws a line that says what to do when one program could not open what it has to. */
export function checkOpenFiles(needed: number, limit = openFilesLimit()): void {
  if (needed + RESERVE <= limit) return;
  throw new Error(
    `one program may have ${limit} files open here, and ${needed + RESERVE} are needed: say "ulimit -n ${needed + RESERVE}" before it, or ask for less`,
  );
}
