/**
 * A whole fleet on one machine: Postgres, nats-server, schedulers, node-agents and gateways as
 * processes, all state in one directory.
 *
 * FL1  A start that fails ends what it had started, and throws one line that names the part, the
 *      reason, and its log.
 * FL2  `down` shuts the virtual machines down too; files of sandboxes stay, and the next start has
 *      the sandboxes as paused or stopped.
 * - An operation that starts or ends programs holds the fleet's lock throughout, and reads the
 *   state after it got the lock. `startComponent`, `kill` and `signal` take no lock: no command
 *   uses them, only tests, to break and mend their own fleet.
 */
import { randomBytes } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createNatsKey, publicKeyOf } from "@torpor/bus";
import {
  DATABASE_USERS,
  type DatabaseUser,
  migrate,
  type Passwords,
  seedApiKey,
  seedHostAdmissions,
  setUpDatabaseUsers,
} from "@torpor/db";
import type { TlsFiles } from "@torpor/identity";
import { prepareLocalPrograms } from "@torpor/programs";
import {
  identify,
  type ProcessIdentity,
  claimPorts,
  isAlive,
  signalProcess,
  waitUntilGone,
} from "@torpor/service";
import { makeCertificates, tlsFilesOf } from "./certificates.ts";
import { CONTROL_USER } from "./nats.ts";
import { natsUrlOf, planNats } from "./plan-nats.ts";
import {
  type FleetOptions,
  hostIdsOf,
  planServices,
  type Ports,
  secretFile,
  seedName,
} from "./plan.ts";
import { claimGivenPorts } from "./ports.ts";
import { databaseUrl, preparePostgres } from "./postgres.ts";
import { type Health, healthOf, startProcess, stopProcess, waitHealthy } from "./process.ts";
import { type Component, type FleetState, readState, type Role, writeState } from "./state.ts";
import { seedFromImages } from "./templates.ts";
import { lockFleet } from "./fleet-lock.ts";
import { collectLeftovers, endVmProcesses, listVmProcesses, shutDownGuests } from "./vms.ts";

const READY_LIMIT_MS: Record<Role, number> = {
  postgres: 60_000,
  nats: 60_000,
  scheduler: 60_000,
  "node-agent": 600_000,
  fence: 30_000,
  lab: 1_800_000,
  gateway: 30_000,
};
const STOP_GRACE_MS = 8_000;
/** A NATS server takes long to leave a cluster. */
const RESTART_GRACE_MS = 45_000;
/**
 * An operation that ends something waits this long for another command: otherwise no later command
 * would end what stays.
 */
const END_TURN_LIMIT_MS = 60_000;
const ROLLING_ORDER: readonly Role[] = ["nats", "scheduler", "gateway", "node-agent", "fence"];
const ORGANIZATION = "local";

interface EndOptions {
  say?: (line: string) => void;
  /**
   * The files of the sandboxes are not needed any more: their guests are not shut down first, as in
   * a power cut.
   */
  isDiscarded?: boolean;
}

export class Fleet {
  readonly dir: string;
  readonly state: FleetState;

  private constructor(dir: string, state: FleetState) {
    this.dir = dir;
    this.state = state;
  }

  /**
   * The fleet whose state is in `dir`; undefined when there is none, or none of its processes and
   * virtual machines runs.
   */
  static async find(dir: string): Promise<Fleet | undefined> {
    const state = await readState(dir);
    if (state === undefined) return undefined;
    const isRunning = state.components.some(isUp) || (await listVmProcesses(dir)).length > 0;
    return isRunning ? new Fleet(dir, state) : undefined;
  }

  /**
   * Starts a fleet and returns when all components are healthy. Ends what is left of an earlier one
   * first.
   */
  static async start(
    options: FleetOptions,
    say: (line: string) => void,
    signal: AbortSignal = new AbortController().signal,
  ): Promise<Fleet> {
    const { dir } = options;
    using _turn = await lockFleet(dir, 0);
    await (await Fleet.find(dir))?.end();
    for (const name of ["logs", "hosts", "snapshots"])
      await mkdir(join(dir, name), { recursive: true });
    const ports = await choosePorts(options);
    const secrets = await makeSecrets(options);
    await makeCertificates(dir, hostIdsOf(options), options.serverAddresses);
    const database = { port: ports.postgres, password: secrets("postgres") };
    const state: FleetState = {
      version: 1,
      url: `http://127.0.0.1:${ports.api}`,
      apiKey: secrets("api-key"),
      databaseUrl: databaseUrl(database),
      natsUrl: natsUrlOf(ports),
      edgePort: ports.edge,
      driver: options.driver,
      imagesDir: options.imagesDir,
      components: [],
    };
    const fleet = new Fleet(dir, state);
    const { certFile, keyFile, caFile } = tlsFilesOf(dir, "server");
    const kept = {
      dir: join(dir, "postgres"),
      isDurable: options.isDurable,
      tls: { certFile, keyFile },
    };
    const postgres = await preparePostgres({ ...kept, ...database });
    state.components = [
      {
        name: "postgres",
        role: "postgres",
        address: `127.0.0.1:${ports.postgres}`,
        healthUrl: state.databaseUrl,
        log: join(dir, "logs/postgres.log"),
        ...postgres,
      },
      ...(await planNats(options, ports, secrets)),
      ...planServices(options, ports, {
        natsUrl: state.natsUrl,
        databaseUrls: urlsOfUsers(ports, secrets, caFile),
      }),
    ];
    try {
      await prepareLocalPrograms();
      await options.prepareImages?.();
      await fleet.startMissing(say, signal);
    } catch (error) {
      await fleet.end();
      throw error;
    }
    return fleet;
  }

  /**
   * Starts the components that do not run, and returns when they are healthy. The lab host has its
   * own command.
   */
  async bringUp(
    say: (line: string) => void,
    signal: AbortSignal = new AbortController().signal,
  ): Promise<void> {
    using _turn = await this.takeTurn();
    await this.startMissing(say, signal);
  }

  /**
   * Takes the fleet's lock, and reads the state that the last command wrote. Throws a line when
   * another command holds the lock for longer than `limitMs`.
   */
  private async takeTurn(limitMs = 0): Promise<Disposable> {
    using taken = new DisposableStack();
    taken.use(await lockFleet(this.dir, limitMs));
    Object.assign(this.state, await readState(this.dir));
    return taken.move();
  }

  private async startMissing(say: (line: string) => void, signal: AbortSignal): Promise<void> {
    const { state } = this;
    const down = state.components.filter(
      (component) => !isUp(component) && component.role !== "lab",
    );
    const startAll = async (components: Component[]) => {
      if (components.length === 0) return;
      say(`starting ${components.map(({ name }) => name).join(", ")}`);
      await Promise.all(components.map(({ name }) => this.startComponent(name, signal)));
    };
    const isBase = ({ role }: Component) => role === "postgres" || role === "nats";
    await startAll(down.filter(isBase));
    await migrate(state.databaseUrl);
    const passwords = await passwordsOfUsers(this.dir);
    if (passwords !== undefined) await setUpDatabaseUsers(state.databaseUrl, passwords);
    // The key of the fleet has all scopes, since its files give access to everything. This also
    // updates a key from before scopes existed.
    await seedHostAdmissions(state.databaseUrl, await natsKeysIn(this.dir), ORGANIZATION);
    await seedApiKey(state.databaseUrl, {
      organization: ORGANIZATION,
      apiKey: state.apiKey,
      isOperator: true,
    });
    await this.seedTemplates();
    await startAll(down.filter((component) => !isBase(component)));
  }

  private async seedTemplates(): Promise<void> {
    const { databaseUrl: url, imagesDir } = this.state;
    if (imagesDir !== undefined) await seedFromImages(url, imagesDir);
  }

  /**
   * Starts a component that does not run and waits until it is healthy; for a NATS server, also
   * until the rest of its cluster is.
   */
  async startComponent(
    name: string,
    signal: AbortSignal = new AbortController().signal,
  ): Promise<void> {
    const component = this.component(name);
    if (isUp(component)) return;
    component.process = await startProcess(component);
    writeState(this.dir, this.state);
    await waitHealthy(component, READY_LIMIT_MS[component.role], signal);
    // Servers of a cluster are healthy only together. For a moment the others may not see the one
    // that is back; none of them may end in that time.
    const others =
      component.role === "nats"
        ? this.state.components.filter((other) => other.role === "nats" && isUp(other))
        : [];
    await Promise.all(others.map((other) => waitHealthy(other, READY_LIMIT_MS.nats, signal)));
  }

  /**
   * Starts a component outside the fleet's plan, or a newer one of the same name; it ends with the
   * fleet. Returns before the component is healthy. Throws when the older one still runs.
   */
  async attach(component: Component): Promise<void> {
    using _turn = await this.takeTurn();
    const { components } = this.state;
    if (components.some((other) => other.name === component.name && isUp(other)))
      throw new Error(`${component.name} is up already`);
    await this.seedTemplates();
    const process = await startProcess(component);
    this.state.components = [
      ...components.filter(({ name }) => name !== component.name),
      { ...component, process },
    ];
    writeState(this.dir, this.state);
  }

  /** Waits until an attached component is healthy. */
  async waitHealthy(name: string, signal: AbortSignal): Promise<void> {
    const component = this.component(name);
    await waitHealthy(component, READY_LIMIT_MS[component.role], signal);
  }

  /** Ends an attached component, if it exists, and removes it from the state. */
  async detach(name: string): Promise<void> {
    using _turn = await this.takeTurn(END_TURN_LIMIT_MS);
    const identity = this.state.components.find((component) => component.name === name)?.process;
    if (identity !== undefined) await stopProcess(identity, "SIGTERM", STOP_GRACE_MS);
    this.state.components = this.state.components.filter((component) => component.name !== name);
    writeState(this.dir, this.state);
  }

  /**
   * Files that a host needs to connect to this fleet: its key for the NATS servers, and its
   * certificate.
   */
  joinSecrets(hostId: string): { natsSeedFile: string; tls: TlsFiles } {
    const natsSeedFile = secretFile(this.dir, seedName(hostId));
    if (!existsSync(natsSeedFile))
      throw new Error(
        `this fleet was started without a user for ${hostId}: end it (./torpor down), and start it again`,
      );
    return { natsSeedFile, tls: tlsFilesOf(this.dir, hostId) };
  }

  /**
   * Ends a component in order, and starts it again with the same settings; the program may be a
   * newer one. Returns when it is healthy.
   */
  async restart(name: string, signal: AbortSignal = new AbortController().signal): Promise<void> {
    using _turn = await this.takeTurn();
    await this.replaceProcess(name, signal);
  }

  private async replaceProcess(name: string, signal: AbortSignal): Promise<void> {
    const component = this.component(name);
    const isOneOfSeveral =
      this.state.components.filter(({ role }) => role === component.role).length > 1;
    const { process: identity } = component;
    if (identity !== undefined)
      await stopProcess(identity, stopSignal(component.role, isOneOfSeveral), RESTART_GRACE_MS);
    delete component.process;
    await this.startComponent(name, signal);
    // The host may hold another image now.
    if (component.role === "node-agent") await this.seedTemplates();
  }

  /**
   * Restarts every program except Postgres, one at a time, in the order of
   * docs/operate/upgrades.md. First starts the components that do not run: of three NATS servers,
   * for example, no second one may be missing. Stops at the first component that does not become
   * healthy.
   */
  async rollingRestart(
    say: (line: string) => void,
    signal: AbortSignal = new AbortController().signal,
  ): Promise<void> {
    using _turn = await this.takeTurn();
    await this.startMissing(say, signal);
    const inOrder = ROLLING_ORDER.flatMap((role) =>
      this.state.components.filter((component) => component.role === role),
    );
    for (const { name } of inOrder) {
      signal.throwIfAborted();
      say(`restarting ${name}`);
      await this.replaceProcess(name, signal);
    }
  }

  /** Sends SIGKILL, and waits for the end of the process. */
  async kill(name: string): Promise<void> {
    const { process: identity, role } = this.component(name);
    if (identity === undefined) return;
    // Server processes of a Postgres end by themselves a moment later; no other server may use the
    // data before that.
    const all = role === "postgres" ? [identity, ...childrenOf(identity)] : [identity];
    signalProcess(identity, "SIGKILL");
    const gone = await Promise.all(all.map((one) => waitUntilGone(one, STOP_GRACE_MS)));
    if (gone.includes(false)) throw new Error(`${name} cannot be killed`);
  }

  /** Sends a signal, for example SIGSTOP, and returns at once. */
  signal(name: string, signal: NodeJS.Signals): void {
    const { process: identity } = this.component(name);
    if (identity !== undefined) signalProcess(identity, signal);
  }

  component(name: string): Component {
    const component = this.state.components.find((candidate) => candidate.name === name);
    if (component === undefined)
      throw new Error(
        `the fleet has no component "${name}"; it has ${this.state.components.map((known) => known.name).join(", ")}`,
      );
    return component;
  }

  async health(): Promise<{ component: Component; health: Health }[]> {
    return await Promise.all(
      this.state.components.map(async (component) => ({
        component,
        health: await healthOf(component),
      })),
    );
  }

  /**
   * Ends everything, clients before the servers that they use, and the virtual machines. Waits a
   * limited time for a running command.
   */
  async down(options: EndOptions = {}): Promise<void> {
    using _turn = await this.takeTurn(END_TURN_LIMIT_MS);
    await this.end(options);
  }

  private async end({ say = () => {}, isDiscarded = false }: EndOptions = {}): Promise<void> {
    const stop = async (roles: Role[]) => {
      const chosen = this.state.components.filter(({ role }) => roles.includes(role));
      await Promise.all(
        chosen.map(async (component) => {
          if (component.process !== undefined)
            await stopProcess(component.process, stopSignal(component.role, false), STOP_GRACE_MS);
          delete component.process;
        }),
      );
    };
    await stop(["gateway"]);
    await stop(["node-agent", "fence", "lab", "scheduler"]);
    if (!isDiscarded) await this.shutDownGuests(say);
    await endVmProcesses(this.dir);
    await stop(["nats", "postgres"]);
    writeState(this.dir, this.state);
    await collectOfHosts(this.state);
  }

  private async shutDownGuests(say: (line: string) => void): Promise<void> {
    const hostIds = new Set((await listVmProcesses(this.dir)).map(({ hostId }) => hostId));
    const agents = this.state.components.filter(
      ({ role, name }) => role === "node-agent" && hostIds.has(name),
    );
    await Promise.all(agents.map((agent) => shutDownGuests(agent, say)));
  }
}

/** Returns the number of hosts. Simulated VMs have nothing but files. */
async function collectOfHosts({ driver, components }: FleetState): Promise<number> {
  if (driver === "simulated") return 0;
  const hosts = components.filter(({ role }) => role === "node-agent");
  await Promise.all(hosts.map(collectLeftovers));
  return hosts.length;
}

/**
 * Removes what the hosts used on this machine besides files, after the fleet was killed with all
 * its VMs. Returns the number of hosts that may have used something.
 */
export async function collectFleet(dir: string): Promise<number> {
  const state = await readState(dir);
  return state === undefined ? 0 : await collectOfHosts(state);
}

const isUp = ({ process: identity }: Component) => identity !== undefined && isAlive(identity);

/**
 * The signal that ends a program. Postgres: without waiting for its clients. A NATS server in a
 * cluster: hands over first.
 */
function stopSignal(role: Role, isOneOfSeveral: boolean): NodeJS.Signals {
  if (role === "postgres") return "SIGINT";
  return role === "nats" && isOneOfSeveral ? "SIGUSR2" : "SIGTERM";
}

const USERS = ["gateway", "scheduler"] as const satisfies DatabaseUser[];
const userSecret = (user: DatabaseUser) => `postgres-${user}`;

function urlsOfUsers(
  { postgres: port }: Ports,
  secrets: (name: string) => string,
  caFile: string,
): Record<DatabaseUser, string> {
  const tls = `?sslmode=verify-full&sslrootcert=${encodeURIComponent(caFile)}`;
  const urlOf = (user: DatabaseUser) =>
    `${databaseUrl({ port, password: secrets(userSecret(user)) }, undefined, DATABASE_USERS[user])}${tls}`;
  return { gateway: urlOf("gateway"), scheduler: urlOf("scheduler") };
}

/** Undefined for an older fleet, whose services connect as the owner of the database. */
async function passwordsOfUsers(dir: string): Promise<Passwords | undefined> {
  const files = USERS.map((user) => secretFile(dir, userSecret(user)));
  if (!files.every((file) => existsSync(file))) return undefined;
  const read = async (user: DatabaseUser) =>
    await readFile(secretFile(dir, userSecret(user)), "utf8");
  return { gateway: await read("gateway"), scheduler: await read("scheduler") };
}

/** Made once per fleet directory, so that tokens and keys stay valid over restarts. */
async function makeSecrets(options: FleetOptions): Promise<(name: string) => string> {
  const { dir } = options;
  await mkdir(join(dir, "secrets"), { recursive: true, mode: 0o700 });
  const random = () => randomBytes(32).toString("hex");
  const seed = () => createNatsKey().seed;
  const makers: [string, () => string][] = [
    ["postgres", random],
    ["nats-route", random],
    ["token-secret", random],
    ["env-key", random],
    ...USERS.map((user): [string, () => string] => [userSecret(user), random]),
    ["api-key", () => `torpor_local_${randomBytes(24).toString("hex")}`],
    ...[CONTROL_USER, ...hostIdsOf(options)].map((name): [string, () => string] => [
      seedName(name),
      seed,
    ]),
  ];
  const values = new Map<string, string>();
  for (const [name, make] of makers) {
    const file = secretFile(dir, name);
    let value = await readFile(file, "utf8").catch(() => undefined);
    if (value === undefined) {
      value = make();
      await writeFile(file, value, { mode: 0o600 });
    }
    values.set(name, value);
  }
  return (name) => values.get(name) ?? "";
}

/** Keys of the hosts in this fleet's plan. */
async function natsKeysIn(dir: string): Promise<{ hostId: string; natsPublicKey: string }[]> {
  const names = (await readdir(join(dir, "secrets"))).flatMap(
    (file) => /^nats-(.+)\.seed$/.exec(file)?.[1] ?? [],
  );
  return names
    .filter((name) => name !== CONTROL_USER)
    .map((hostId) => ({
      hostId,
      natsPublicKey: publicKeyOf(readFileSync(secretFile(dir, seedName(hostId)), "utf8")),
    }));
}

async function choosePorts(options: FleetOptions): Promise<Ports> {
  const { gateways, schedulers, hosts, natsServers = 1 } = options;
  const [api, edge] = await claimGivenPorts(options);
  const ports = await claimPorts(1 + 3 * natsServers + gateways + schedulers + 2 * hosts);
  const take = () => ports.shift() ?? 0;
  const times = <T>(count: number, make: () => T) => Array.from({ length: count }, make);
  return {
    api,
    edge,
    postgres: take(),
    nats: times(natsServers, () => ({ client: take(), monitor: take(), route: take() })),
    gateways: times(gateways, take),
    schedulers: times(schedulers, take),
    hosts: times(hosts, () => ({ health: take(), dataPlane: take() })),
  };
}

/** Ends the fleet, and removes its directory. */
export async function removeFleet(dir: string): Promise<void> {
  await (await Fleet.find(dir))?.down({ isDiscarded: true });
  await rm(dir, { recursive: true, force: true });
}

function childrenOf({ pid }: ProcessIdentity): ProcessIdentity[] {
  const pids = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ");
  return pids.flatMap((child) => identify(Number(child)) ?? []);
}
