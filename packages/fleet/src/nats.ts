/**
 * A nats-server of a fleet: its binary, and its configuration, which is infra/nats/server.conf with
 * addresses, cluster and users filled in.
 */
import { access, constants, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { hostPermissions, hostServices } from "@torpor/bus";
import type { TlsFiles } from "@torpor/identity";

export interface NatsUser {
  /** Undefined for the control side. */
  hostId?: string;
  /** Public halves of the user's NKeys; two during a replacement. */
  publicKeys?: string[];
  /** Password of the user `control` or `host-<id>`, beside keys until its programs use those. */
  password?: string | undefined;
  /** A host of 0.1.0, which has no account of its own. */
  isShared?: boolean;
}

export const CONTROL_USER = "control";
const ROUTE_USER = "route";
export const natsUserOf = (hostId: string) => `host-${hostId}`;

/** TORPOR_NATS_SERVER_BIN, or else the binary that ./torpor has fetched. */
export async function findNatsServer(root: string): Promise<string> {
  const own = process.env["TORPOR_NATS_SERVER_BIN"];
  if (own !== undefined && own !== "") {
    if (await isExecutable(own)) return own;
    throw new Error(
      `TORPOR_NATS_SERVER_BIN is ${own}, which is no program: correct it, or unset it to use the one that ./torpor fetches`,
    );
  }
  const tools = join(root, ".torpor/tools");
  const names = await readdir(tools, { recursive: true }).catch(() => []);
  const found = names.find((name) => name.endsWith("/scripts/nats-server"));
  if (found === undefined)
    throw new Error(
      "there is no nats-server: start it by ./torpor, which fetches one, or set TORPOR_NATS_SERVER_BIN to where it is",
    );
  return join(tools, found);
}

export async function isExecutable(path: string): Promise<boolean> {
  return await access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}

/** All addresses are `host:port`. */
interface NatsOptions {
  root: string;
  /** Unique in the cluster, and permanent: the server's stored data belongs to this name. */
  name: string;
  listen: string;
  monitor: string;
  storeDir: string;
  users: NatsUser[];
  /** False for tests: acknowledged data survives the end of the server, but not of the machine. */
  isDurable: boolean;
  /** Absent for a single server. */
  cluster?: NatsCluster;
  /** Absent: no TLS. */
  tls?: NatsTls;
}

export interface NatsTls extends TlsFiles {
  /** Also accepts clients without TLS, until all have it. */
  takesPlain?: boolean;
}

export interface NatsCluster {
  /** Address for connections from the other servers. */
  listen: string;
  /** Addresses of all servers, including this one. */
  routes: string[];
  /** Shared secret of the servers. */
  password: string;
}

export async function natsConfiguration(options: NatsOptions): Promise<string> {
  const template = await readFile(join(options.root, "infra/nats/server.conf"), "utf8");
  const values: Record<string, string> = {
    SERVER_NAME: JSON.stringify(options.name),
    LISTEN: JSON.stringify(options.listen),
    MONITOR: JSON.stringify(options.monitor),
    SYNC_INTERVAL: options.isDurable ? "always" : "2m",
    STORE_DIR: JSON.stringify(options.storeDir),
    ACCOUNTS: renderAccounts(options.users),
    TLS: options.tls === undefined ? "" : renderTls(options.tls),
    CLUSTER: options.cluster === undefined ? "" : renderCluster(options.cluster, options.tls),
  };
  return `${template.replaceAll(/@([A-Z_]+)@/g, (given, name: string) => values[name] ?? given).trimEnd()}\n`;
}

const CONTROL_ACCOUNT = "CONTROL";
const accountOf = (hostId: string) => `HOST_${hostId}`;

function usersOf(
  { hostId, publicKeys = [], password }: NatsUser,
  place: "own" | "shared",
): object[] {
  const may = hostId === undefined ? {} : { permissions: hostPermissions(hostId, place) };
  const user = hostId === undefined ? CONTROL_USER : natsUserOf(hostId);
  return [
    ...publicKeys.map((nkey) => ({ nkey, ...may })),
    ...(password === undefined ? [] : [{ user, password, ...may }]),
  ];
}

/**
 * One account for the control side, with the streams, and one for each host
 * (packages/bus/src/permissions.ts).
 */
function renderAccounts(users: NatsUser[]): string {
  const hosts = users.flatMap((user) => {
    const { hostId, isShared = false } = user;
    return hostId === undefined || isShared ? [] : [{ ...user, hostId }];
  });
  const control = {
    jetstream: "enabled",
    users: users
      .filter(({ hostId, isShared = false }) => hostId === undefined || isShared)
      .flatMap((user) => usersOf(user, "shared")),
    exports: hosts.flatMap(({ hostId }) =>
      hostServices(hostId).map(({ subject, isStream }) => ({
        service: subject,
        accounts: [accountOf(hostId)],
        response_type: isStream ? "stream" : "singleton",
      })),
    ),
  };
  const ofHost = (host: NatsUser & { hostId: string }) => ({
    users: usersOf(host, "own"),
    imports: hostServices(host.hostId).map(({ subject, localSubject }) => ({
      service: { account: CONTROL_ACCOUNT, subject },
      to: localSubject,
    })),
  });
  const accounts: [string, object][] = [
    [CONTROL_ACCOUNT, control],
    ...hosts.map((host): [string, object] => [accountOf(host.hostId), ofHost(host)]),
  ];
  return accounts.map(([name, account]) => `  ${name}: ${JSON.stringify(account)}`).join("\n");
}

/**
 * A client may begin with the TLS handshake; a client that first waits for the server's greeting
 * gets it after a moment.
 */
function renderTls(tls: NatsTls): string {
  return [
    "tls {",
    ...fileLines(tls),
    // Without `verify`, a key is enough to connect, and a client cannot show a certificate.
    ...(tls.takesPlain === true ? [] : ["  verify: true"]),
    '  handshake_first: "auto"',
    "  timeout: 5",
    "}",
    ...(tls.takesPlain === true ? ["allow_non_tls: true"] : []),
  ].join("\n");
}

const fileLines = ({ certFile, keyFile, caFile }: TlsFiles) => [
  `  cert_file: ${JSON.stringify(certFile)}`,
  `  key_file: ${JSON.stringify(keyFile)}`,
  `  ca_file: ${JSON.stringify(caFile)}`,
];

function renderCluster(
  { listen, routes, password }: NatsCluster,
  tls: NatsTls | undefined,
): string {
  const credentials = `${ROUTE_USER}:${encodeURIComponent(password)}`;
  return [
    "cluster {",
    '  name: "torpor"',
    `  listen: ${JSON.stringify(listen)}`,
    `  authorization: ${JSON.stringify({ user: ROUTE_USER, password, timeout: 5 })}`,
    "  routes = [",
    ...routes.map((address) => `    ${JSON.stringify(`nats-route://${credentials}@${address}`)}`),
    "  ]",
    // Routes cannot mix TLS and plain: a server with TLS would lose the servers that are still
    // without.
    ...(tls === undefined || tls.takesPlain === true
      ? []
      : [
          "  tls {",
          ...fileLines(tls).map((line) => `  ${line}`),
          "    verify: true",
          "    timeout: 5",
          "  }",
        ]),
    "}",
  ].join("\n");
}
