/**
 * The fleet of this checkout: its directory, and its options from the command line and the
 * environment.
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

/** Throws a line that names the wrong option. */
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
 * Starts the fleet, with the images that `prepareImages` of the options provides. Writes the
 * credentials to where clients look for them.
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
 * Starts the stopped components of an existing fleet, of which only a virtual machine may be left.
 */
export async function bringUpRest(
  { write }: CommandContext,
  fleet: Fleet,
  signal: AbortSignal,
): Promise<void> {
  await prepareLocalPrograms();
  await fleet.bringUp((line) => write(`fleet: ${line}, which did not run`), signal);
}

/** Aborts when the user interrupts the command, so that it can end what it has started. */
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
