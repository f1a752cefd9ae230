/** `torpor demo [--keep]`: from nothing to a sandbox's whole life on real virtual machines. Exits 0 only if every claim of the story was checked and true. */
import { Fleet } from "@torpor/fleet";
import type { Stage } from "../demo/stage.ts";
import { tellStory } from "../demo/story.ts";
import { fleetOptions, interrupted, startFleet } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { buildImage } from "./image.ts";
import { printAccess } from "./up.ts";

export async function demo(context: CommandContext): Promise<number> {
  const startedAt = performance.now();
  const isKept = context.args.includes("--keep");
  const options = fleetOptions(context);
  const signal = interrupted();
  await buildImage(context, signal);
  const running = await Fleet.find(options.dir);
  if (running !== undefined) context.write("fleet: it is up already, and is used");
  const fleet = running ?? (await startFleet(context, options, signal));
  let isTrue = false;
  try {
    isTrue = await Promise.race([tellStory(stageOf(fleet), context.write), ended(signal)]);
  } finally {
    if (running === undefined && !(isKept && isTrue)) await fleet.down();
  }
  context.write(`The demo took ${((performance.now() - startedAt) / 1000).toFixed(1)} s.`);
  if (isKept && isTrue) printAccess(context, fleet);
  return isTrue ? 0 : 1;
}

export function stageOf(fleet: Fleet): Stage {
  const hosts = fleet.state.components.flatMap(({ role, name, healthUrl }) =>
    (role === "node-agent" || role === "lab") && healthUrl !== undefined ? [{ id: name, healthUrl }] : [],
  );
  return { url: fleet.state.url, apiKey: fleet.state.apiKey, hosts };
}

async function ended(signal: AbortSignal): Promise<never> {
  return await new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
  });
}
