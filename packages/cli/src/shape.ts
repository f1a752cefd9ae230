/**
 * The shape of a local fleet: the number of each component, and the driver. As requested on the
 * command line, and as it is in a running fleet.
 */
import { parseArgs } from "node:util";
import type { FleetOptions, FleetState, Role } from "@torpor/fleet";

export type FleetShape = Required<
  Pick<FleetOptions, "hosts" | "gateways" | "schedulers" | "natsServers" | "driver">
>;

const DEFAULTS: FleetShape = {
  hosts: 2,
  gateways: 1,
  schedulers: 2,
  natsServers: 1,
  driver: "qemu",
};
const MAX_COUNT = 16;

/**
 * The requested shape; an absent field was not requested. Throws a line that names the wrong
 * option.
 */
export function askedShape(args: string[]): Partial<FleetShape> {
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
  const { hosts, gateways, schedulers, nats, driver } = values;
  return {
    ...(hosts === undefined ? {} : { hosts: count("--hosts", hosts) }),
    ...(gateways === undefined ? {} : { gateways: count("--gateways", gateways) }),
    ...(schedulers === undefined ? {} : { schedulers: count("--schedulers", schedulers) }),
    ...(nats === undefined ? {} : { natsServers: natsServers(nats) }),
    ...(driver === undefined ? {} : { driver: driverOf(driver) }),
  };
}

export const shapeOf = (asked: Partial<FleetShape>): FleetShape => ({ ...DEFAULTS, ...asked });

/** Shape of a running fleet, without the lab host, which comes and goes. */
export function shapeOfState({
  components,
  driver,
}: Pick<FleetState, "components" | "driver">): FleetShape {
  const countOf = (role: Role) => components.filter((component) => component.role === role).length;
  return {
    hosts: countOf("node-agent"),
    gateways: countOf("gateway"),
    schedulers: countOf("scheduler"),
    natsServers: countOf("nats"),
    driver: driverOf(driver),
  };
}

/** True if a fleet has everything that was requested. */
export function fits(asked: Partial<FleetShape>, shape: FleetShape): boolean {
  return Object.entries(asked).every(([name, value]) => shape[name as keyof FleetShape] === value);
}

/** `--hosts 2 --schedulers 2 --gateways 1 --nats 1 --driver qemu` */
export function inOptions({
  hosts,
  schedulers,
  gateways,
  natsServers: nats,
  driver,
}: FleetShape): string {
  return `--hosts ${hosts} --schedulers ${schedulers} --gateways ${gateways} --nats ${nats} --driver ${driver}`;
}

function count(name: string, text: string): number {
  return numberFrom(name, text, 1, MAX_COUNT);
}

/** Throws a line that names the option or the setting. */
export function numberFrom(name: string, text: string, least: number, most: number): number {
  const value = wholeNumber(text);
  if (!(value >= least && value <= most))
    throw new Error(`${name} must be a number from ${least} to ${most}, not "${text}"`);
  return value;
}

/** NaN unless the text is all digits: Number() accepts "", "0x2" and "1e1" too. */
export function wholeNumber(text: string): number {
  return /^\d+$/.test(text) ? Number(text) : Number.NaN;
}

/**
 * An odd number: a cluster works while more than half of it does, so two would be worse than one.
 */
function natsServers(text: string): number {
  if (!["1", "3", "5"].includes(text)) throw new Error(`--nats must be 1, 3 or 5, not "${text}"`);
  return Number(text);
}

function driverOf(text: string): FleetShape["driver"] {
  if (text !== "qemu" && text !== "simulated")
    throw new Error(`--driver must be qemu or simulated, not "${text}"`);
  return text;
}
