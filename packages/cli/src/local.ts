/** The fleet of this checkout: where it lives, and what the command line and the environment say about it. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Fleet, type FleetOptions } from "@torpor/fleet";
import { LAB_HOST_ID } from "@torpor/lab";
import type { CommandContext } from "./main.ts";

export const fleetDir = (root: string) => join(root, ".torpor/fleet");
export const imagesDir = (root: string) => join(root, ".torpor/images");

const DEFAULT_GATEWAY_PORT = 8787;
const DEFAULT_EDGE_PORT = 7777;
const MAX_COUNT = 16;

/** Throws one line that names the option that is wrong. */
export function fleetOptions({ root, args }: CommandContext): FleetOptions {
  const { values } = parseArgs({
    args,
    options: {
      hosts: { type: "string" },
      schedulers: { type: "string" },
      gateways: { type: "string" },
      nats: { type: "string" },
      driver: { type: "string" },
      keep: { type: "boolean" },
    },
  });
  const { driver = "qemu" } = values;
  if (driver !== "qemu" && driver !== "simulated") throw new Error(`--driver must be qemu or simulated, not "${driver}"`);
  return {
    root,
    dir: fleetDir(root),
    imagesDir: imagesDir(root),
    hosts: count("--hosts", values.hosts, 2),
    gateways: count("--gateways", values.gateways, 1),
    schedulers: count("--schedulers", values.schedulers, 2),
    natsServers: natsServers(values.nats),
    guestHosts: [LAB_HOST_ID],
    driver,
    gatewayPort: port("TORPOR_GATEWAY_PORT", DEFAULT_GATEWAY_PORT),
    edgePort: port("TORPOR_EDGE_PORT", DEFAULT_EDGE_PORT),
    isDurable: true,
    hostEnv: {},
  };
}

/** Starts the fleet with images in place; the credentials are left where clients find them. */
export async function startFleet(context: CommandContext, options: FleetOptions, signal: AbortSignal): Promise<Fleet> {
  const fleet = await Fleet.start(options, (line) => context.write(`fleet: ${line}`), signal);
  const { url, apiKey } = fleet.state;
  await writeFile(join(context.root, ".torpor/credentials.json"), `${JSON.stringify({ url, apiKey }, undefined, 2)}\n`, { mode: 0o600 });
  return fleet;
}

/** Aborts when the user ends the command, so that it can end what it has started. */
export function interrupted(): AbortSignal {
  const controller = new AbortController();
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(name, () => controller.abort(new Error(`ended by ${name}`)));
  }
  return controller.signal;
}

function count(name: string, text: string | undefined, fallback: number): number {
  const value = text === undefined ? fallback : wholeNumber(text);
  if (!(value >= 1 && value <= MAX_COUNT)) throw new Error(`${name} must be a number from 1 to ${MAX_COUNT}, not "${text}"`);
  return value;
}

/** Two would be worse than one: a cluster works while more than half of it does. */
function natsServers(text = "1"): number {
  if (!["1", "3", "5"].includes(text)) throw new Error(`--nats must be 1, 3 or 5, not "${text}"`);
  return Number(text);
}

function port(name: string, fallback: number): number {
  const text = process.env[name];
  const value = text === undefined ? fallback : wholeNumber(text);
  if (!(value <= 65_535)) throw new Error(`${name} must be a port number, not "${text}"`);
  return value;
}

/** NaN for all but digits: Number() takes "" for 0, and "0x2" and "1e1" too. */
function wholeNumber(text: string): number {
  return /^\d+$/.test(text) ? Number(text) : Number.NaN;
}
