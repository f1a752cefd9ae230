/** What this machine has left of its memory, page cache that can be given up included. */
import { readFile } from "node:fs/promises";

export async function availableMemoryMib(): Promise<number> {
  const text = await readFile("/proc/meminfo", "utf8");
  return Math.floor(Number(/^MemAvailable:\s+(\d+) kB$/m.exec(text)?.[1] ?? 0) / 1024);
}
