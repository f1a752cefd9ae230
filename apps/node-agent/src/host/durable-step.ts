/**
 * Steps whose order decides what a crash leaves behind, announced before and after they are taken, so that a test can end the process at every one of them.
 * Without a listener it costs one comparison.
 */
import { channel } from "node:diagnostics_channel";

export const DURABLE_STEP_CHANNEL = "torpor:durable-step";
export interface DurableStep {
  name: string;
  when: "before" | "after";
}

const steps = channel(DURABLE_STEP_CHANNEL);

export async function durableStep<T>(name: string, body: () => Promise<T>): Promise<T> {
  if (!steps.hasSubscribers) return await body();
  steps.publish({ name, when: "before" } satisfies DurableStep);
  const result = await body();
  steps.publish({ name, when: "after" } satisfies DurableStep);
  return result;
}
