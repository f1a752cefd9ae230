/**
 * Writes the configuration of one NATS server of a fleet to standard output, from server.conf, with
 * a user for the control plane and one for each host:
 *
 *   node infra/nats/configure.ts --name nats-1 \
 *     --servers nats-1=10.0.0.11,nats-2=10.0.0.12,nats-3=10.0.0.13 \
 *     --secrets ./secrets --admissions ./hosts.json \
 *     --tls-cert /etc/torpor/nats.crt --tls-key /etc/torpor/nats.key --tls-ca /etc/torpor/ca.crt
 *
 * --admissions FILE  hosts that have joined, as `./torpor hosts admissions --json` prints them
 * --hosts            hosts whose secrets are made here instead; you copy the secrets to them. A
 *                    host that has joined too keeps both, until it is removed from this list
 * --secrets          directory of the secrets: of `control` and --hosts (files: see secrets.ts),
 *                    and `route`, shared by the servers
 * --new-keys         users among `control` and --hosts that get an additional key, to replace the
 *                    old one. Use this option for one server only; remove the file of the old key
 *                    when no program uses it any more
 * --shared-hosts     those of --hosts that still run 0.1.0: they cannot use an account of their
 *                    own, and stay in the control side's account until their upgrade
 * --tls-…            the server's files; without them, no client uses TLS
 * --existing-secrets a file that is missing in --secrets is an error, and is not made: for
 *                    configurations that are written repeatedly
 * --take-plain       with TLS, also accepts clients without it, until the last of them has it
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import {
  type NatsTls,
  type NatsUser,
  natsConfiguration,
  natsUserOf,
} from "../../packages/fleet/src/nats.ts";
import { isNatsPublicKey } from "../../packages/bus/src/nats-key.ts";
import { Secrets } from "./secrets.ts";

interface Admitted {
  hostId: string;
  publicKeys: string[];
  isRevoked: boolean;
}

const CLIENT_PORT = 4222;
const ROUTE_PORT = 6222;
const MONITOR_PORT = 8222;
const SERVER = /^([a-z0-9][a-z0-9-]*)=([A-Za-z0-9.-]+)$/;
const HOST = /^[a-z0-9][a-z0-9-]{0,62}$/;
const SIZES = [1, 3, 5];

const text = { type: "string", default: "" } as const;
const { values } = parseArgs({
  options: {
    name: text,
    servers: text,
    admissions: text,
    hosts: text,
    "shared-hosts": text,
    "new-keys": text,
    secrets: text,
    store: { type: "string", default: "/var/lib/torpor-nats" },
    "tls-cert": text,
    "tls-key": text,
    "tls-ca": text,
    "take-plain": { type: "boolean", default: false },
    "existing-secrets": { type: "boolean", default: false },
  },
});
const servers = new Map(list(values.servers).map(serverOf));
const address = servers.get(values.name);
const hosts = list(values.hosts);
const shared = list(values["shared-hosts"]);
const renewed = list(values["new-keys"]);
if (!SIZES.includes(servers.size))
  fail(`--servers must name 1, 3 or 5 servers as name=address, not ${servers.size}`);
if (address === undefined)
  fail(`--name must be one of ${[...servers.keys()].join(", ")}, not "${values.name}"`);
const wrong = hosts.find((hostId) => !HOST.test(hostId));
if (wrong !== undefined)
  fail(`--hosts: "${wrong}" is no host id: lowercase letters, digits and dashes`);
for (const [option, named, known] of [
  ["--shared-hosts", shared, hosts],
  ["--new-keys", renewed, ["control", ...hosts]],
] as const) {
  const unexpected = named.find((name) => !known.includes(name));
  if (unexpected !== undefined) fail(`${option}: "${unexpected}" is not among --hosts`);
}
if (values.secrets === "") fail("--secrets is missing: the directory of the secrets");

const admitted =
  values.admissions === "" ? new Map<string, Admitted>() : admissionsIn(values.admissions);
const tls = tlsOf();
const secrets = new Secrets(values.secrets, !values["existing-secrets"]);
const users: NatsUser[] = [
  explained(() => secrets.of("control", renewed.includes("control"))),
  ...hosts.filter((hostId) => admitted.get(hostId)?.isRevoked !== true).map(configured),
  ...[...admitted.values()].filter(
    ({ hostId, publicKeys }) => publicKeys.length > 0 && !hosts.includes(hostId),
  ),
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
  ...(tls === undefined ? {} : { tls }),
  ...(servers.size === 1
    ? {}
    : {
        cluster: {
          listen: `${address}:${ROUTE_PORT}`,
          routes,
          password: secrets.password("route"),
        },
      }),
});
process.stdout.write(configuration);

function list(given: string): string[] {
  return given === "" ? [] : given.split(",");
}

function serverOf(given: string): [name: string, address: string] {
  const [, name, at] =
    SERVER.exec(given) ?? fail(`--servers: "${given}" is not of the form name=address`);
  return [name ?? "", at ?? ""];
}

function tlsOf(): NatsTls | undefined {
  const [certFile, keyFile, caFile] = [values["tls-cert"], values["tls-key"], values["tls-ca"]];
  const given = [certFile, keyFile, caFile].filter((file) => file !== "").length;
  if (given === 0 && values["take-plain"])
    fail("--take-plain is about TLS: give --tls-cert, --tls-key and --tls-ca too");
  if (given === 0) return undefined;
  if (given < 3) fail("--tls-cert, --tls-key and --tls-ca belong together: give all three or none");
  return { certFile, keyFile, caFile, takesPlain: values["take-plain"] };
}

/**
 * Combines the secrets of --hosts with the keys of the admission: both are valid while a host moves
 * from one to the other.
 */
function configured(hostId: string): NatsUser {
  const keys = admitted.get(hostId)?.publicKeys ?? [];
  const user = natsUserOf(hostId);
  const isNew = renewed.includes(hostId);
  const own =
    keys.length > 0 && !isNew && !secrets.has(user)
      ? { publicKeys: [], password: undefined }
      : explained(() => secrets.of(user, isNew));
  const publicKeys = [...new Set([...own.publicKeys, ...keys])];
  return { hostId, publicKeys, password: own.password, isShared: shared.includes(hostId) };
}

function admissionsIn(file: string): Map<string, Admitted> {
  const { admissions } = explained(
    () => JSON.parse(readFileSync(file, "utf8")) as { admissions?: unknown },
  );
  if (!Array.isArray(admissions))
    fail(`--admissions: ${file} is not what \`./torpor hosts admissions --json\` prints`);
  return new Map(admissions.map((entry: unknown) => admissionOf(entry, file)));
}

/** An entry without keys was revoked, or uses a password (--hosts). */
function admissionOf(entry: unknown, file: string): [string, Admitted] {
  const {
    host_id: hostId,
    nats_public_keys: keys,
    revoked_at: revokedAt,
  } = (entry ?? {}) as {
    host_id?: unknown;
    nats_public_keys?: unknown;
    revoked_at?: unknown;
  };
  const isWhole =
    typeof hostId === "string" &&
    HOST.test(hostId) &&
    Array.isArray(keys) &&
    keys.every((key) => isNatsPublicKey(String(key)));
  if (!isWhole)
    return fail(
      `--admissions: an entry of ${file} is no host with its keys: ${JSON.stringify(entry).slice(0, 200)}`,
    );
  const publicKeys = [...new Set(keys.map(String))];
  return [hostId, { hostId, publicKeys, isRevoked: typeof revokedAt === "string" }];
}

function explained<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    return fail(error instanceof Error ? error.message : String(error));
  }
}

function fail(message: string): never {
  process.stderr.write(`configure: ${message}\n`);
  process.exit(2);
}
