/** Creates what an operator has removed, or what a server that starts empty does not have. */
import { type Bus, restoreMissing } from "@torpor/bus";
import { type ConsumerDefinition, hostCommands } from "@torpor/contracts";
import { listHosts } from "@torpor/db";
import type { Deps } from "./deps.ts";
import type { WorkWatch } from "./work-watch.ts";

/**
 * Name of the loop that creates missing streams and consumers. What the loop cannot create keeps
 * messages from their readers, so the health report shows its failures.
 */
export const RESTORE_BUS = "restore-bus";

/** `consumers`: those of the schedulers. Each host's consumer is restored with them. */
export async function restoreBus(
  { db, log }: Deps,
  bus: Bus,
  consumers: ConsumerDefinition[],
  watch: WorkWatch,
  options: Parameters<typeof restoreMissing>[2],
): Promise<Record<string, number>> {
  const hosts = await listHosts(db);
  const commands = hosts.map(({ id }) => hostCommands(id));
  const { made, states } = await restoreMissing(bus, [...consumers, ...commands], options);
  // A lost host takes no commands, and that is already reported.
  const present = hosts.filter(({ state }) => state !== "lost");
  watch.noteConsumers(
    states,
    present.map(({ id }) => id),
  );
  if (made.length > 0)
    log.error({ made }, "streams or consumers were missing; they were made again");
  return { made: made.length };
}
