/**
 * Writes the configuration of one NATS server of a fleet to standard output, from server.conf, with a user for the control plane and one for each host:
 *
 *   node infra/nats/configure.ts --name nats-1 --servers nats-1=10.0.0.11,nats-2=10.0.0.12,nats-3=10.0.0.13 --hosts host-1,host-2 --secrets ./secrets > nats-1.conf
 *
 * --shared-hosts names those of --hosts that still run 0.1.0: they know nothing of an account of their
 * own, and stay in the control side's until they are upgraded.
 *
 * Passwords are files in --secrets: `control`, `route`, `host-<id>`. Those that are missing are made, so the first run decides, and a run with one host more adds one.
 */
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { natsConfiguration, natsUserOf } from "../../packages/fleet/src/nats.ts";

const CLIENT_PORT = 4222;
const ROUTE_PORT = 6222;
const MONITOR_PORT = 8222;
const SERVER = /^([a-z0-9][a-z0-9-]*)=([A-Za-z0-9.-]+)$/;
const HOST = /^[a-z0-9][a-z0-9-]{0,62}$/;
const SIZES = [1, 3, 5];

const { values } = parseArgs({
  options: {
    name: { type: "string", default: "" },
    servers: { type: "string", default: "" },
    hosts: { type: "string", default: "" },
    "shared-hosts": { type: "string", default: "" },
    secrets: { type: "string", default: "" },
    store: { type: "string", default: "/var/lib/torpor-nats" },
  },
});
const servers = new Map(list(values.servers).map(serverOf));
const address = servers.get(values.name);
const hosts = list(values.hosts);
const shared = list(values["shared-hosts"]);
if (!SIZES.includes(servers.size)) fail(`--servers must name 1, 3 or 5 servers as name=address, not ${servers.size}`);
if (address === undefined) fail(`--name must be one of ${[...servers.keys()].join(", ")}, not "${values.name}"`);
const wrong = hosts.find((hostId) => !HOST.test(hostId));
if (wrong !== undefined) fail(`--hosts: "${wrong}" is no host id: lowercase letters, digits and dashes`);
const stray = shared.find((hostId) => !hosts.includes(hostId));
if (stray !== undefined) fail(`--shared-hosts: "${stray}" is not among --hosts`);
if (values.secrets === "") fail("--secrets is missing: the directory of the passwords");

mkdirSync(values.secrets, { recursive: true, mode: 0o700 });
const users = [
  { password: secret("control") },
  ...hosts.map((hostId) => ({
    hostId,
    password: secret(natsUserOf(hostId)),
    isShared: shared.includes(hostId),
  })),
];
const routes = [...servers.values()].map((other) => `${other}:${ROUTE_PORT}`);
const configuration = await natsConfiguration({
  root: fileURLToPath(new URL("../..", import.meta.url)),
  name: values.name,
  listen: `${address}:${CLIENT_PORT}`,
  monitor: `127.0.0.1:${MONITOR_PORT}`,
  storeDir: values.store,
  users,
  isDurable: true,
  ...(servers.size === 1 ? {} : { cluster: { listen: `${address}:${ROUTE_PORT}`, routes, password: secret("route") } }),
});
process.stdout.write(configuration);

function list(text: string): string[] {
  return text === "" ? [] : text.split(",");
}

function serverOf(text: string): [name: string, address: string] {
  const [, name, at] = SERVER.exec(text) ?? fail(`--servers: "${text}" is not of the form name=address`);
  return [name ?? "", at ?? ""];
}

function secret(name: string): string {
  const file = join(values.secrets, name);
  try {
    writeFileSync(file, randomBytes(32).toString("hex"), { mode: 0o600, flag: "wx" });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
  return readFileSync(file, "utf8").trim();
}

function fail(message: string): never {
  process.stderr.write(`configure: ${message}\n`);
  process.exit(2);
}
