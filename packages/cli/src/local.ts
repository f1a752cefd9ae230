/**
 * The fleet of this checkout: where it lives, and what the command line and the environment say
 * about it.
 */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Fleet, type FleetOptions } from "@torpor/fleet";
import { LAB_HOST_ID, LAB_NETWORK } from "@torpor/lab";
import { prepareLocalPrograms } from "@torpor/programs";
import type { CommandContext } from "./main.ts";
import { askedShape, shapeOf, wholeNumber } from "./shape.ts";

export const fleetDir = (root: string) => join(root, ".torpor/fleet");
export const imagesDir = (root: string) => join(root, ".torpor/images");

const DEFAULT_GATEWAY_PORT = 8787;
const DEFAULT_EDGE_PORT = 7777;

/** Throws one line that names the option that is wrong. */
export function fleetOptions({ root, args }: CommandContext): FleetOptions {
  return {
    root,
    dir: fleetDir(root),
    imagesDir: imagesDir(root),
    ...shapeOf(askedShape(args)),
    guestHosts: [LAB_HOST_ID],
    serverAddresses: [LAB_NETWORK.gateway],
    gatewayPort: port("TORPOR_GATEWAY_PORT", DEFAULT_GATEWAY_PORT),
    edgePort: port("TORPOR_EDGE_PORT", DEFAULT_EDGE_PORT),
    isDurable: true,
    hostEnv: {},
  };
}

/**
 * Starts the fleet, with images that `prepareImages` of the options has put in place; the
 * credentials are left where clients find them.
 */
export async function startFleet(
  context: CommandContext,
  options: FleetOptions,
  signal: AbortSignal,
): Promise<Fleet> {
  const fleet = await Fleet.start(options, (line) => context.write(`fleet: ${line}`), signal);
  const { url, apiKey } = fleet.state;
  await writeFile(
    join(context.root, ".torpor/credentials.json"),
    `${JSON.stringify({ url, apiKey }, undefined, 2)}\n`,
    { mode: 0o600 },
  );
  return fleet;
}

/**
 * Starts what of a fleet that is there does not run: of one that was found, a virtual machine may
 * be all that is left.
 */
export async function bringUpRest(
  { write }: CommandContext,
  fleet: Fleet,
  signal: AbortSignal,
): Promise<void> {
  await prepareLocalPrograms();
  await fleet.bringUp((line) => write(`fleet: ${line}, which did not run`), signal);
}

/** Aborts when the user ends the command, so that it can end what it has started. */
export function interrupted(): AbortSignal {
  const controller = new AbortController();
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(name, () => controller.abort(new Error(`ended by ${name}`)));
  }
  return controller.signal;
}

function port(name: string, fallback: number): number {
  const text = process.env[name];
  const value = text === undefined ? fallback : wholeNumber(text);
  if (!(value <= 65_535)) throw new Error(`${name} must be a port number, not "${text}"`);
  return value;
}
