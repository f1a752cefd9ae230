/**
 * The cost of a guest and the waiting times of its users, in real virtual machines. With two
 * images, each round measures one and then the other, so that other load on the machine affects
 * both alike.
 */
import { Sandbox } from "@hopx-ai/sdk";
import { benchDir, type BenchFleet, startBenchFleet } from "@torpor/bench";
import type { Fleet } from "@torpor/fleet";

/**
 * Results of one round. Times in milliseconds, as a client sees them; `flushesMs` by the guest's
 * own clock.
 */
export interface GuestMeasure {
  memoryMib: number;
  createMs: number;
  firstCellMs: number;
  flushesMs: number;
  resumeMs: number;
}

export const GUEST_MEASURES: Record<keyof GuestMeasure, string> = {
  memoryMib: "memory in use after create, MiB",
  createMs: "create",
  firstCellMs: "first runCode",
  flushesMs: "1,000 lines of Python, each flushed",
  resumeMs: "resume",
};

const MEMORY = "awk '/^Mem(Total|Available)/ { print $2 }' /proc/meminfo";
const FLUSHES = [
  "import sys, time",
  "started = time.perf_counter()",
  "for i in range(1000): print(i, flush=True)",
  "print((time.perf_counter() - started) * 1000, file=sys.stderr)",
].join("\n");
const CELL_LIMIT_S = 300;

/** Returns one entry per images directory, with one measure per round. */
export async function measureGuests(
  root: string,
  imagesDirs: string[],
  rounds: number,
  signal: AbortSignal,
): Promise<GuestMeasure[][]> {
  const fleets: BenchFleet[] = [];
  const placeOf = (at: number) => ({ root, dir: benchDir(root, `guest-${at}`) });
  try {
    for (const [at, imagesDir] of imagesDirs.entries())
      fleets.push(await startBenchFleet(placeOf(at), { imagesDir }, signal));
    const measures: GuestMeasure[][] = fleets.map(() => []);
    for (let round = 0; round < rounds; round += 1)
      for (const [at, fleet] of fleets.entries()) {
        signal.throwIfAborted();
        measures[at]?.push(await measure(fleet.fleet));
      }
    return measures;
  } finally {
    for (const fleet of fleets) await fleet.close();
  }
}

async function measure({ state }: Fleet): Promise<GuestMeasure> {
  const access = { apiKey: state.apiKey, baseURL: state.url };
  const [createMs, sandbox] = await timed(() =>
    Sandbox.create({ template: "code-interpreter", ...access }),
  );
  try {
    const { stdout } = await sandbox.commands.run(MEMORY);
    const [totalKib = 0, availableKib = 0] = stdout.trim().split("\n").map(Number);
    const [firstCellMs] = await timed(() => sandbox.runCode("1 + 1", { timeout: CELL_LIMIT_S }));
    const flushed = await sandbox.runCode(FLUSHES, { timeout: CELL_LIMIT_S });
    await sandbox.pause();
    const [resumeMs] = await timed(() => sandbox.resume());
    return {
      memoryMib: (totalKib - availableKib) / 1024,
      createMs,
      firstCellMs,
      flushesMs: Number(flushed.stderr.trim()),
      resumeMs,
    };
  } finally {
    await sandbox.kill();
  }
}

async function timed<T>(run: () => Promise<T>): Promise<[number, T]> {
  const startedAt = performance.now();
  const result = await run();
  return [performance.now() - startedAt, result];
}
