/**
 * A real PgBouncer in front of a Postgres, with the settings of infra/postgres, for one test file.
 */
import { execFile } from "node:child_process";
import { access, readFile, writeFile } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import { claimPort } from "@torpor/service";
import { tempDir } from "./basics.ts";
import { serverProcess, type ServerProcess } from "./process.ts";
import { ROOT } from "./root.ts";

/** Directory that ./torpor test fills: Debian packages, unpacked but not installed. */
const UNPACKED = join(ROOT, ".torpor/tools/pgbouncer");
const LIBRARIES = {
  LD_LIBRARY_PATH: ["x86_64", "aarch64"]
    .map((cpu) => `${UNPACKED}/usr/lib/${cpu}-linux-gnu`)
    .join(":"),
};

export interface PgBouncer extends ServerProcess, AsyncDisposable {
  /** URL of the same database through PgBouncer, with the settings that programs need. */
  through(url: string): string;
  /** URL of the same database, without the setting for missing prepared statements. */
  plainly(url: string): string;
}

interface PgBouncerOptions {
  /** Server connections, shared by all clients with the user of the URL. */
  poolSize: number;
  /** PgBouncer keeps prepared statements, which needs version 1.21; default false. */
  keepsStatements?: boolean;
}

/** Starts PgBouncer in front of the server of `url`. */
export async function startPgBouncer(url: string, options: PgBouncerOptions): Promise<PgBouncer> {
  const { poolSize, keepsStatements = false } = options;
  const dir = await tempDir();
  const target = new URL(url);
  const { port } = await claimPort();
  const authFile = join(dir.path, "users");
  await writeFile(authFile, `"${target.username}" "${target.password}"\n`);
  const values: Record<string, string> = {
    POSTGRES_HOST: target.hostname,
    POSTGRES_PORT: target.port,
    LISTEN_HOST: "127.0.0.1",
    LISTEN_PORT: String(port),
    AUTH_FILE: authFile,
    POOL_SIZE: String(poolSize),
  };
  const shipped = await readFile(join(ROOT, "infra/postgres/pgbouncer.ini"), "utf8");
  const template = keepsStatements
    ? shipped.replace(/^; (max_prepared_statements)/m, "$1")
    : shipped;
  const config = join(dir.path, "pgbouncer.ini");
  await writeFile(
    config,
    template.replaceAll(/@([A-Z_]+)@/g, (given, name: string) => values[name] ?? given),
  );
  const plainly = (database: string) => {
    const way = new URL(database);
    way.port = String(port);
    return way.href;
  };
  const through = (database: string) => {
    const way = new URL(plainly(database));
    if (!keepsStatements) way.searchParams.set("prepared_statements", "off");
    return way.href;
  };
  const server = serverProcess(
    {
      name: "pgbouncer",
      role: "postgres",
      address: `127.0.0.1:${port}`,
      healthUrl: plainly(url),
      command: await findPgBouncer(),
      // PgBouncer does not run as root.
      args: process.getuid?.() === 0 ? ["--user", "nobody", config] : [config],
      env: LIBRARIES,
      log: join(dir.path, "log"),
    },
    "SIGKILL",
  );
  await server.start();
  return {
    ...server,
    through,
    plainly,
    [Symbol.asyncDispose]: async () => {
      await server.stop();
      await dir[Symbol.asyncDispose]();
    },
  };
}

/**
 * The reason, as a sentence, why this PgBouncer cannot keep prepared statements; undefined if it
 * can.
 */
export async function keepsNoStatements(): Promise<string | undefined> {
  const { stdout } = await promisify(execFile)(await findPgBouncer(), ["--version"], {
    env: LIBRARIES,
  });
  const [, major = 0, minor = 0] = /(\d+)\.(\d+)/.exec(stdout) ?? [];
  if (Number(major) > 1 || Number(minor) >= 21) return undefined;
  return `PgBouncer ${major}.${minor} keeps none; PGBOUNCER_BIN names one from 1.21 on`;
}

async function findPgBouncer(): Promise<string> {
  const named = process.env["PGBOUNCER_BIN"];
  if (named !== undefined) return named;
  const folders = [
    join(UNPACKED, "usr/sbin"),
    ...(process.env["PATH"] ?? "").split(delimiter),
    "/usr/sbin",
  ];
  for (const folder of folders) {
    const found = await access(join(folder, "pgbouncer")).then(
      () => true,
      () => false,
    );
    if (found) return join(folder, "pgbouncer");
  }
  throw new Error(
    "there is no pgbouncer: ./torpor test fetches it; or install Debian's package pgbouncer",
  );
}
