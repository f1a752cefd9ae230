/** A real PgBouncer before a Postgres, with the settings of infra/postgres, for one test file. */
import { access, readFile, writeFile } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { claimPort } from "@torpor/service";
import { tempDir } from "./basics.ts";
import { serverProcess, type ServerProcess } from "./process.ts";
import { ROOT } from "./root.ts";

/** Where ./torpor test puts it: from Debian's packages, unpacked and not installed. */
const UNPACKED = join(ROOT, ".torpor/tools/pgbouncer");

export interface PgBouncer extends ServerProcess, AsyncDisposable {
  /** The same database, through it, as programs have to be told: it keeps no prepared statements. */
  through(url: string): string;
  /** Without telling them. */
  plainly(url: string): string;
}

/** With `poolSize` connections to the server of `url`, whoever connects to it as the user of `url` shares them. */
export async function startPgBouncer(url: string, poolSize: number): Promise<PgBouncer> {
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
  const template = await readFile(join(ROOT, "infra/postgres/pgbouncer.ini"), "utf8");
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
    way.searchParams.set("prepared_statements", "off");
    return way.href;
  };
  const server = serverProcess(
    {
      name: "pgbouncer",
      role: "postgres",
      address: `127.0.0.1:${port}`,
      healthUrl: plainly(url),
      command: await findPgBouncer(),
      // It does not run as root.
      args: process.getuid?.() === 0 ? ["--user", "nobody", config] : [config],
      env: { LD_LIBRARY_PATH: `${UNPACKED}/usr/lib/x86_64-linux-gnu:${UNPACKED}/usr/lib/aarch64-linux-gnu` },
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

async function findPgBouncer(): Promise<string> {
  const folders = [join(UNPACKED, "usr/sbin"), ...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin"];
  for (const folder of folders) {
    const found = await access(join(folder, "pgbouncer")).then(
      () => true,
      () => false,
    );
    if (found) return join(folder, "pgbouncer");
  }
  throw new Error("there is no pgbouncer: ./torpor test fetches it; or install Debian's package pgbouncer");
}
