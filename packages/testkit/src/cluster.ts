/**
 * A Postgres data directory for tests, made once and then copied: with the newest schema in the
 * default database and in a template. A copy takes a tenth of the time of initdb and the
 * migrations.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { chmod, glob, mkdir, mkdtemp, readFile, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { migrate } from "@torpor/db";
import { databaseUrl, preparePostgres } from "@torpor/fleet";
import { claimPort } from "@torpor/service";
import postgres from "postgres";
import { serverProcess } from "./process.ts";
import { ROOT } from "./root.ts";

const run = promisify(execFile);

export const TEST_DATABASE_PASSWORD = "test";
/** A migrated database without connections: for CREATE DATABASE … TEMPLATE. */
export const TEMPLATE_DATABASE = "torpor_template";
const CACHE = join(ROOT, ".torpor/cache/test-postgres");

/** Copies the directory to `dir`, for `preparePostgres` with `TEST_DATABASE_PASSWORD`. */
export async function copyCluster(dir: string): Promise<void> {
  const ready = join(CACHE, await versionOfCluster());
  if (!(await exists(ready))) await makeCluster(ready);
  await mkdir(dirname(dir), { recursive: true });
  await run("cp", ["--archive", "--reflink=auto", ready, dir]);
}

/** Two concurrent calls both succeed; the result of the first stays. */
async function makeCluster(ready: string): Promise<void> {
  await mkdir(CACHE, { recursive: true });
  const made = await mkdtemp(join(CACHE, "new-"));
  try {
    // The server's own user must be able to enter it.
    await chmod(made, 0o711);
    const dir = join(made, "cluster");
    await fillCluster(dir, join(made, "log"));
    await rename(dir, ready).catch(async (cause: unknown) => {
      if (!(await exists(ready))) throw cause;
    });
  } finally {
    await rm(made, { recursive: true, force: true });
  }
}

async function fillCluster(dir: string, log: string): Promise<void> {
  using claimed = await claimPort();
  const access = { port: claimed.port, password: TEST_DATABASE_PASSWORD };
  const command = await preparePostgres({ dir, isDurable: false, ...access });
  const address = `127.0.0.1:${access.port}`;
  const healthUrl = databaseUrl(access);
  const server = serverProcess(
    { name: "postgres", role: "postgres", address, healthUrl, log, ...command },
    "SIGINT",
  );
  await server.start();
  try {
    const sql = postgres(healthUrl, { max: 1, onnotice: () => {} });
    await sql.unsafe(`CREATE DATABASE ${TEMPLATE_DATABASE}`);
    await sql.end();
    for (const name of [undefined, TEMPLATE_DATABASE]) await migrate(databaseUrl(access, name));
  } finally {
    await server.stop();
  }
}

/** Changes with the schema, with Postgres, and with the code that makes the directory. */
async function versionOfCluster(): Promise<string> {
  const migrations = await Array.fromAsync(
    glob("packages/db/migrations/**/*.{sql,json}", { cwd: ROOT }),
  );
  const files = [
    ...migrations.toSorted(),
    "packages/fleet/src/postgres.ts",
    "packages/testkit/src/cluster.ts",
    "pnpm-lock.yaml",
  ];
  const hash = createHash("sha256")
    .update(process.env["TORPOR_POSTGRES_DIR"] ?? "")
    .update(String(process.getuid?.()));
  for (const file of files) hash.update(await readFile(join(ROOT, file)));
  return hash.digest("hex").slice(0, 32);
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}
