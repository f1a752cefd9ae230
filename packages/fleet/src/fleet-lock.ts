/**
 * The lock of a fleet: one command at a time starts or ends its programs. Two commands would start
 * the programs twice, and each would record its own.
 */
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { tryClaimName } from "@torpor/service";

const LOOK_EVERY_MS = 100;

/**
 * Holds the lock until it is disposed, or the process ends. Throws a line when another command
 * holds the lock for longer than `limitMs`.
 */
export async function lockFleet(dir: string, limitMs: number): Promise<Disposable> {
  const name = `fleet-${createHash("sha256").update(dir).digest("hex")}`;
  const deadline = performance.now() + limitMs;
  for (;;) {
    const turn = await tryClaimName(name);
    if (turn !== undefined) return turn;
    if (performance.now() >= deadline)
      throw new Error(
        `another command is starting or ending programs of the fleet in ${dir}: wait for it, or end it`,
      );
    await sleep(LOOK_EVERY_MS);
  }
}
