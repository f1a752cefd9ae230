/** Available memory of this machine, including page cache that can be reclaimed. */
import { readFile } from "node:fs/promises";

export async function availableMemoryMib(): Promise<number> {
  const text = await readFile("/proc/meminfo", "utf8");
  return Math.floor(Number(/^MemAvailable:\s+(\d+) kB$/m.exec(text)?.[1] ?? 0) / 1024);
}
