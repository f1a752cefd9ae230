/**
 * `torpor lab up | down | shell | status | exec -- <command>`: a host of the local fleet that is a
 * machine of its own, with the production driver.
 */
import { join } from "node:path";
import { realpath } from "node:fs/promises";
import { parseArgs } from "node:util";
import { Fleet } from "@torpor/fleet";
import {
  execInLab,
  labDir,
  labDown,
  labHealth,
  labUp,
  requireHypervisor,
  runningLab,
  shellInLab,
  type LabOptions,
} from "@torpor/lab";
import {
  bringUpRest,
  fleetDir,
  fleetOptions,
  imagesDir,
  interrupted,
  startFleet,
} from "../local.ts";
import type { CommandContext } from "../main.ts";
import { wholeNumber } from "../shape.ts";
import { buildImageFiles } from "./image.ts";
import { printAccess } from "./up.ts";

const MEMORY_MIB = 3072;
const COMMANDS: Record<string, (context: CommandContext) => Promise<number>> = {
  up,
  down,
  shell,
  status,
  exec,
};

export async function lab(context: CommandContext): Promise<number> {
  const [name = "", ...args] = context.args;
  const command = COMMANDS[name];
  if (command === undefined)
    throw new Error(
      `there is no command "lab ${name}"; there are: ${Object.keys(COMMANDS).join(", ")}`,
    );
  return await command({ ...context, args });
}

async function up(context: CommandContext): Promise<number> {
  const { values } = parseArgs({
    args: context.args,
    options: { driver: { type: "string", default: "cloud-hypervisor" } },
  });
  const { fleet, running } = await joinLab(context, values.driver, interrupted());
  if (running === undefined) printAccess(context, fleet);
  return 0;
}

export interface LabFleet {
  fleet: Fleet;
  /** The fleet, if it was already up. */
  running: Fleet | undefined;
}

/**
 * Starts the lab host, and the fleet of this checkout if it is not up yet. Ends what it has started
 * on failure.
 */
export async function joinLab(
  context: CommandContext,
  driver: string,
  signal: AbortSignal,
): Promise<LabFleet> {
  const { root, write } = context;
  const startedAt = performance.now();
  const cloudHypervisorBin = process.env["CLOUD_HYPERVISOR_BIN"] || undefined;
  requireHypervisor({ driver, cloudHypervisorBin });
  const running = await Fleet.find(fleetDir(root));
  if (running !== undefined) await bringUpRest(context, running, signal);
  if (running !== undefined && (await labHealth(running)).kind !== "down") {
    write("lab: it is up already; ./torpor lab status shows it, ./torpor lab down ends it");
    return { fleet: running, running };
  }
  const say = (line: string) =>
    write(`lab: [${((performance.now() - startedAt) / 1000).toFixed(0).padStart(3)}s] ${line}`);
  const prepareImages = async () => await buildImageFiles(context, signal);
  if (running !== undefined) await prepareImages();
  // A fleet for the lab has no other host, so its sandboxes run there.
  const fleet =
    running ??
    (await startFleet(
      context,
      { ...fleetOptions({ ...context, args: [] }), hosts: 0, prepareImages },
      signal,
    ));
  try {
    await labUp(
      { ...(await machineOptions(root)), driver, cloudHypervisorBin },
      fleet,
      say,
      signal,
    );
  } catch (error) {
    if (running === undefined) await fleet.down();
    throw error;
  }
  say(`lab-1 is in the fleet, with the driver ${driver}`);
  return { fleet, running };
}

async function down({ root, write }: CommandContext): Promise<number> {
  const fleet = await Fleet.find(fleetDir(root));
  if (fleet === undefined || (await labHealth(fleet)).kind === "down") {
    write("lab: it is down");
    return 0;
  }
  await labDown(labDir(root), fleet);
  write(
    "lab: down; what it kept (images, golden snapshots, sandboxes) is in .torpor/lab. The rest of the fleet goes on",
  );
  return 0;
}

async function shell({ root }: CommandContext): Promise<number> {
  return await shellInLab(await runningLab(labDir(root), await Fleet.find(fleetDir(root))));
}

async function exec({ root, args }: CommandContext): Promise<number> {
  const command = args[0] === "--" ? args.slice(1) : args;
  if (command.length === 0) throw new Error("usage: torpor lab exec -- <command> [argument…]");
  return await execInLab(await runningLab(labDir(root), await Fleet.find(fleetDir(root))), command);
}

async function status({ root, write }: CommandContext): Promise<number> {
  const fleet = await Fleet.find(fleetDir(root));
  const health = fleet === undefined ? ({ kind: "down" } as const) : await labHealth(fleet);
  if (fleet === undefined || health.kind === "down") {
    write("lab: it is down; ./torpor lab up starts it");
    return 1;
  }
  const { driver, ports } = await runningLab(labDir(root), fleet);
  write(
    `lab: lab-1 is ${health.kind}, driver ${driver}, ssh 127.0.0.1:${ports.ssh}, data plane 127.0.0.1:${ports.dataPlane}`,
  );
  if (health.kind === "unhealthy") write(`lab: ${health.reason}`);
  return health.kind === "healthy" ? 0 : 1;
}

async function machineOptions(
  root: string,
): Promise<Omit<LabOptions, "driver" | "cloudHypervisorBin">> {
  const text = process.env["TORPOR_LAB_MEMORY_MIB"];
  const memoryMib = text === undefined ? MEMORY_MIB : wholeNumber(text);
  if (!(memoryMib >= 2048))
    throw new Error("TORPOR_LAB_MEMORY_MIB must be a number of at least 2048");
  return {
    root,
    dir: labDir(root),
    imageDir: await realpath(join(imagesDir(root), "code-interpreter")),
    qemuBin: process.env["QEMU_BIN"] ?? "qemu-system-x86_64",
    memoryMib,
  };
}
