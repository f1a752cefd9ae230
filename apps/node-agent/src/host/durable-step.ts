/**
 * Steps whose order decides what a crash leaves behind. Each is announced before and after, so that
 * a test can end the host at every one of them. Without a listener a step costs one comparison.
 */
import { channel } from "node:diagnostics_channel";

export const DURABLE_STEP_CHANNEL = "torpor:durable-step";
export interface DurableStep {
  name: string;
  when: "before" | "after";
  /** Delays what follows until `until` resolves; a promise that never does ends the host here. */
  hold: (until: Promise<void>) => void;
}

const steps = channel(DURABLE_STEP_CHANNEL);

export async function durableStep<T>(name: string, body: () => Promise<T>): Promise<T> {
  if (!steps.hasSubscribers) return await body();
  await announce(name, "before");
  const result = await body();
  await announce(name, "after");
  return result;
}

async function announce(name: string, when: DurableStep["when"]): Promise<void> {
  const holds: Promise<void>[] = [];
  steps.publish({ name, when, hold: (until) => holds.push(until) } satisfies DurableStep);
  await Promise.all(holds);
}
