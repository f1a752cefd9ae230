/**
 * Real nats-servers with JetStream and the permissions of production, for one test file: a single
 * server, or a cluster.
 */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  type Component,
  CONTROL_USER,
  findNatsServer,
  type NatsCluster,
  natsConfiguration,
  type NatsTls,
  type NatsUser,
  natsUserOf,
} from "@torpor/fleet";
import { claimPorts } from "@torpor/service";
import { tempDir, until } from "./basics.ts";
import { keepFiles, registerEvidence } from "./evidence.ts";
import { serverProcess, type ServerProcess } from "./process.ts";
import { ROOT } from "./root.ts";

const PASSWORD = "test";
const PORTS_EACH = 3;

interface NatsAccess {
  /** URLs of all servers. */
  url: string;
  /** Credentials of the control side, or of a host. */
  as(hostId?: string): { url: string; user: string; password: string };
}

interface ConfiguredServer extends ServerProcess {
  /** From now on, exactly these of its hosts have no account of their own. */
  share(hostIds: string[]): Promise<void>;
  /** From now on, the server knows exactly these users. */
  admit(users: NatsUser[]): Promise<void>;
}

export interface NatsServer extends ConfiguredServer, NatsAccess, AsyncDisposable {}

export interface TestNatsCluster extends NatsAccess, AsyncDisposable {
  servers: (ConfiguredServer & { name: string })[];
}

/** `shared`: hosts of `hostIds` without their own account. `tls`: files of the server. */
export async function startNats(
  hostIds: string[] = [],
  shared: string[] = [],
  tls?: NatsTls,
): Promise<NatsServer> {
  const { servers, ...rest } = await startServers(1, hostIds, shared, tls);
  const [server] = servers;
  if (server === undefined) throw new Error("a server was asked for, and none was made");
  await server.start();
  return { ...server, ...rest };
}

/** Returns when the servers have connected to each other. */
export async function startNatsCluster(
  size: number,
  hostIds: string[] = [],
): Promise<TestNatsCluster> {
  const cluster = await startServers(size, hostIds);
  await Promise.all(cluster.servers.map((server) => server.start()));
  return cluster;
}

const reloads = async (log: string) =>
  (await readFile(log, "utf8")).split("Reloaded server configuration").length;

/** Prepares the servers, without starting them. */
async function startServers(
  size: number,
  hostIds: string[],
  shared: string[] = [],
  tls?: NatsTls,
): Promise<TestNatsCluster> {
  const dir = await tempDir();
  const usersWith = (isShared: (hostId: string) => boolean) => [
    { password: PASSWORD },
    ...hostIds.map((hostId) => ({ hostId, password: PASSWORD, isShared: isShared(hostId) })),
  ];
  const command = await findNatsServer(ROOT);
  const ports = await claimPorts(size * PORTS_EACH);
  const addresses = ports.map((port) => `127.0.0.1:${port}`);
  const [clients, monitors, routes] = [0, 1, 2].map((part) =>
    addresses.slice(part * size, (part + 1) * size),
  ) as [string[], string[], string[]];
  const server = async (at: number): Promise<ConfiguredServer & { name: string }> => {
    const name = `nats-${at + 1}`;
    const storeDir = join(dir.path, name);
    await mkdir(storeDir);
    const [listen = "", monitor = "", route = ""] = [clients[at], monitors[at], routes[at]];
    const cluster: { cluster?: NatsCluster } =
      size === 1 ? {} : { cluster: { listen: route, routes, password: PASSWORD } };
    const config = join(dir.path, `${name}.conf`);
    const place = {
      root: ROOT,
      name,
      listen,
      monitor,
      storeDir,
      isDurable: false,
      ...cluster,
      ...(tls === undefined ? {} : { tls }),
    };
    const configure = async (users: NatsUser[]) =>
      await writeFile(config, await natsConfiguration({ ...place, users }));
    const sharing = (ids: string[]) => usersWith((hostId) => ids.includes(hostId));
    await configure(sharing(shared));
    const component: Component = {
      name,
      role: "nats",
      address: listen,
      healthUrl: `http://${monitor}/healthz`,
      command,
      args: ["--config", config],
      env: {},
      log: join(dir.path, `${name}.log`),
    };
    const running = serverProcess(component, "SIGKILL");
    const admit = async (users: NatsUser[]) => {
      await configure(users);
      // As torpor-nats.service does: imports of a new account work only after the second reload.
      for (let times = 1; times <= 2; times += 1) {
        const before = await reloads(component.log);
        running.signal("SIGHUP");
        await until("it is reloaded", async () => (await reloads(component.log)) > before);
      }
    };
    return { name, ...running, admit, share: async (ids) => await admit(sharing(ids)) };
  };
  const servers = await Promise.all(Array.from({ length: size }, (_, at) => server(at)));
  const logs = servers.map(({ name }) => join(dir.path, `${name}.log`));
  const evidence = registerEvidence("nats", (to) => keepFiles(to, logs));
  const url = clients
    .map((address) => `${tls === undefined ? "nats" : "tls"}://${address}`)
    .join(",");
  return {
    servers,
    url,
    as: (hostId) => ({
      url,
      user: hostId === undefined ? CONTROL_USER : natsUserOf(hostId),
      password: PASSWORD,
    }),
    [Symbol.asyncDispose]: async () => {
      evidence[Symbol.dispose]();
      await Promise.all(servers.map((one) => one.stop()));
      await dir[Symbol.asyncDispose]();
    },
  };
}
