/**
 * `torpor demo [--keep] [--driver qemu|cloud-hypervisor]`: from nothing through the whole lifecycle
 * of a sandbox, on real virtual machines. Exits 0 only if every claim of the story held.
 */
import { parseArgs } from "node:util";
import { Fleet } from "@torpor/fleet";
import { LAB_HOST_ID, labDir, runningLab, statusInLab } from "@torpor/lab";
import {
  residentBytesHere,
  residentBytesIn,
  type DemoStage,
  type StageHost,
} from "../demo/stage.ts";
import { tellStory } from "../demo/story.ts";
import { bringUpRest, fleetDir, fleetOptions, interrupted, startFleet } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { buildImage } from "./image.ts";
import { joinLab, type LabFleet } from "./lab.ts";
import { printAccess } from "./up.ts";

export async function demo(context: CommandContext): Promise<number> {
  const startedAt = performance.now();
  const isKept = context.args.includes("--keep");
  const signal = interrupted();
  const { fleet, running } = await (isOfLab(context)
    ? labFleet(context, signal)
    : localFleet(context, signal));
  let isTrue = false;
  try {
    isTrue = await Promise.race([
      tellStory(await stageOf(fleet, context.root), context.write),
      ended(signal),
    ]);
  } finally {
    if (running === undefined && !(isKept && isTrue)) await fleet.down();
  }
  context.write(`The demo took ${((performance.now() - startedAt) / 1000).toFixed(1)} s.`);
  if (isKept && isTrue) printAccess(context, fleet);
  return isTrue ? 0 : 1;
}

async function localFleet(context: CommandContext, signal: AbortSignal): Promise<LabFleet> {
  const options = fleetOptions(context);
  const running = await Fleet.find(options.dir);
  const prepareImages = async () => await buildImage(context, signal);
  if (running === undefined)
    return { fleet: await startFleet(context, { ...options, prepareImages }, signal), running };
  await prepareImages();
  context.write("fleet: it is up already, and is used");
  await bringUpRest(context, running, signal);
  return { fleet: running, running };
}

function isOfLab({ args }: CommandContext): boolean {
  const { values } = parseArgs({ args, strict: false, options: { driver: { type: "string" } } });
  return values.driver === "cloud-hypervisor";
}

/** A fleet whose only host is the lab host, so that the story runs there. */
async function labFleet(context: CommandContext, signal: AbortSignal): Promise<LabFleet> {
  const running = await Fleet.find(fleetDir(context.root));
  if (running?.state.components.some(({ role }) => role === "node-agent") === true)
    throw new Error("the fleet that is up has hosts with another driver: ./torpor down ends it");
  return await joinLab(context, "cloud-hypervisor", signal);
}

export async function stageOf(fleet: Fleet, root: string): Promise<DemoStage> {
  const hosts = fleet.state.components.flatMap(({ role, name, healthUrl }) =>
    (role === "node-agent" || role === "lab") && healthUrl !== undefined
      ? [{ id: name, healthUrl }]
      : [],
  );
  const watched = hosts.map(async (host): Promise<StageHost> => {
    if (host.id !== LAB_HOST_ID) return { ...host, residentBytes: residentBytesHere };
    const record = await runningLab(labDir(root), fleet);
    return {
      ...host,
      residentBytes: async (pid) => residentBytesIn(await statusInLab(record, pid)),
    };
  });
  return { url: fleet.state.url, apiKey: fleet.state.apiKey, hosts: await Promise.all(watched) };
}

async function ended(signal: AbortSignal): Promise<never> {
  return await new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
  });
}
