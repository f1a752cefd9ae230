/** The limit on open files of a program: sockets count, and each program of a fleet has many. */
import { readFileSync } from "node:fs";

/** Files that each program opens for itself. */
const RESERVE = 512;

/** Limit for this process and its children; Infinity without a limit. */
export function openFilesLimit(limits = readFileSync("/proc/self/limits", "utf8")): number {
  const text = /^Max open files\s+(\S+)/m.exec(limits)?.[1] ?? "unlimited";
  return text === "unlimited" ? Number.POSITIVE_INFINITY : Number(text);
}

/** Throws a line with the remedy if a program needs more files than it may open. */
export function checkOpenFiles(needed: number, limit = openFilesLimit()): void {
  if (needed + RESERVE <= limit) return;
  throw new Error(
    `one program may have ${limit} files open here, and ${needed + RESERVE} are needed: say "ulimit -n ${needed + RESERVE}" before it, or ask for less`,
  );
}
