/** Concurrent creates, on one host that has room for all of them. */
import { setTimeout as sleep } from "node:timers/promises";
import type { BenchCall } from "../load/client.ts";
import { failureOf, idIn, removeMany } from "../load/sandboxes.ts";
import type { Crowd } from "./result.ts";

/** A client gives up after this time. */
const PATIENCE_MS = 600_000;
const AGAIN_MS = 1_000;
/** The create takes longer than the request waits (503), or must be sent again later (429). */
const COME_AGAIN: ReadonlySet<number> = new Set([429, 503]);

export async function measureCrowd(
  call: BenchCall,
  template: string,
  creates: number,
): Promise<Crowd> {
  const startedAt = performance.now();
  const ids: string[] = [];
  const failed: Record<string, number> = {};
  let told = 0;
  const client = async (_: unknown, at: number) => {
    for (;;) {
      const answer = await call("POST", "/v1/sandboxes", {
        body: { template_name: template },
        idempotencyKey: `crowd-${startedAt}-${at}`,
      });
      if (answer.status === 201 || answer.status === 200) {
        ids.push(idIn(answer));
        return;
      }
      const isOver = performance.now() - startedAt > PATIENCE_MS;
      if (!COME_AGAIN.has(answer.status) || isOver) {
        const why = failureOf(answer);
        failed[why] = (failed[why] ?? 0) + 1;
        return;
      }
      told += 1;
      await sleep(AGAIN_MS);
    }
  };
  await Promise.all(Array.from({ length: creates }, client));
  const ms = performance.now() - startedAt;
  await removeMany(call, ids);
  return { creates, running: ids.length, told, failed, ms };
}
