/** The fleet's nats-server: its binary, and its configuration from infra/nats/server.conf with the users filled in. */
import { access, constants, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { hostPermissions } from "@torpor/bus";

interface NatsUser {
  /** Undefined: the control side. */
  hostId?: string;
  password: string;
}

export const CONTROL_USER = "control";
export const natsUserOf = (hostId: string) => `host-${hostId}`;

/** TORPOR_NATS_SERVER_BIN, else the one that ./torpor has fetched. */
export async function findNatsServer(root: string): Promise<string> {
  const own = process.env["TORPOR_NATS_SERVER_BIN"];
  if (own !== undefined && own !== "") {
    if (await isExecutable(own)) return own;
    throw new Error(`TORPOR_NATS_SERVER_BIN is ${own}, which is no program: correct it, or unset it to use the one that ./torpor fetches`);
  }
  const tools = join(root, ".torpor/tools");
  const names = await readdir(tools, { recursive: true }).catch(() => []);
  const found = names.find((name) => name.endsWith("/scripts/nats-server"));
  if (found === undefined)
    throw new Error("there is no nats-server: start it by ./torpor, which fetches one, or set TORPOR_NATS_SERVER_BIN to where it is");
  return join(tools, found);
}

export async function isExecutable(path: string): Promise<boolean> {
  return await access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}

interface NatsOptions {
  root: string;
  port: number;
  storeDir: string;
  users: NatsUser[];
  /** False, for tests: what is acknowledged survives the end of the server, not that of the machine. */
  isDurable: boolean;
}

export async function natsConfiguration(options: NatsOptions): Promise<string> {
  const template = await readFile(join(options.root, "infra/nats/server.conf"), "utf8");
  const values: Record<string, string> = {
    PORT: String(options.port),
    SYNC_INTERVAL: options.isDurable ? "always" : "2m",
    STORE_DIR: JSON.stringify(options.storeDir),
    USERS: options.users.map((user) => `    ${renderUser(user)}`).join("\n"),
  };
  return template.replaceAll(/@([A-Z_]+)@/g, (_, name: string) => values[name] ?? "");
}

function renderUser({ hostId, password }: NatsUser): string {
  const name = hostId === undefined ? CONTROL_USER : natsUserOf(hostId);
  const user = { user: name, password };
  return JSON.stringify(hostId === undefined ? user : { ...user, permissions: hostPermissions(hostId) });
}
