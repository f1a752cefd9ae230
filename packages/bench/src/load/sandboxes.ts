/** Sandboxes for a step to work on. */
import { TEMPLATE } from "../control-plane-fleet.ts";
import type { ClientAnswer, BenchCall } from "./client.ts";

const AT_ONCE = 32;

export const create = (call: BenchCall) =>
  call("POST", "/v1/sandboxes", { body: { template_name: TEMPLATE } });

export const remove = (call: BenchCall, id: string) => call("DELETE", `/v1/sandboxes/${id}`);

export const idIn = ({ text }: ClientAnswer) => (JSON.parse(text) as { id: string }).id;

/** Reason of a failed request: equal for all requests that failed for the same reason. */
export function failureOf({ status, text }: ClientAnswer): string {
  const code = /"code":"([A-Z_]+)"/.exec(text)?.[1];
  return code === undefined ? String(status) : `${status} ${code}`;
}

/** Throws a line when a create fails. */
export async function createMany(call: BenchCall, count: number): Promise<string[]> {
  const ids: string[] = [];
  await inParallel(Array.from({ length: count }), async () => {
    const answer = await create(call);
    if (answer.status !== 201)
      throw new Error(`a sandbox could not be created: ${failureOf(answer)} ${answer.text}`);
    ids.push(idIn(answer));
  });
  return ids;
}

/** Ignores failures: the fleet is thrown away. */
export async function removeMany(call: BenchCall, ids: readonly string[]): Promise<void> {
  await inParallel(ids, async (id) => void (await remove(call, id).catch(() => {})));
}

/** Handles a few items at once, until all are done. */
export async function inParallel<T>(
  items: readonly T[],
  act: (item: T) => Promise<void>,
  atOnce = AT_ONCE,
): Promise<void> {
  let at = 0;
  const worker = async () => {
    for (let item = at++; item < items.length; item = at++) await act(items[item] as T);
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, worker));
}
