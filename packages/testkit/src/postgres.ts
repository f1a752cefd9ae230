/** A real Postgres for one test file; each test gets a database of its own in a moment, from a migrated template. */
import { chmod } from "node:fs/promises";
import { join } from "node:path";
import { databaseUrl, preparePostgres } from "@torpor/fleet";
import { claimPort } from "@torpor/service";
import postgres from "postgres";
import { tempDir } from "./basics.ts";
import { copyCluster, TEMPLATE_DATABASE, TEST_DATABASE_PASSWORD } from "./cluster.ts";
import { keepFiles, keepRows, registerEvidence } from "./evidence.ts";
import { serverProcess, type ServerProcess } from "./process.ts";

export interface PostgresServer extends ServerProcess, AsyncDisposable {
  /** A fresh, migrated database; its connection string. */
  database(): Promise<string>;
  /** A database with nothing in it. */
  emptyDatabase(): Promise<string>;
}

export async function startPostgres(): Promise<PostgresServer> {
  const dir = await tempDir();
  // The server's own user has to enter it.
  await chmod(dir.path, 0o711);
  const { port } = await claimPort();
  const access = { port, password: TEST_DATABASE_PASSWORD };
  await copyCluster(join(dir.path, "pg"));
  const command = await preparePostgres({ dir: join(dir.path, "pg"), isDurable: false, ...access });
  const url = (name?: string) => databaseUrl(access, name);
  const component = {
    name: "postgres",
    role: "postgres",
    address: `127.0.0.1:${access.port}`,
    healthUrl: url(),
    log: join(dir.path, "log"),
    ...command,
  } as const;
  const server = serverProcess({ ...component }, "SIGINT");
  await server.start();
  const run = async (statement: string) => {
    const sql = postgres(url(), { max: 1, onnotice: () => {} });
    try {
      await sql.unsafe(statement);
    } finally {
      await sql.end();
    }
  };
  const log = join(dir.path, "log");
  const databases: string[] = [];
  const evidence = registerEvidence("postgres", async (to) => {
    await keepFiles(to, [log]);
    // The newest one is the failed test's.
    const newest = databases.at(-1);
    if (newest !== undefined) await keepRows(to, newest);
  });
  let made = 0;
  const make = async (template: string) => {
    made += 1;
    const name = `test_${made}`;
    await run(`CREATE DATABASE ${name} TEMPLATE ${template}`);
    databases.push(url(name));
    return url(name);
  };
  return {
    ...server,
    database: () => make(TEMPLATE_DATABASE),
    emptyDatabase: () => make("template0"),
    [Symbol.asyncDispose]: async () => {
      evidence[Symbol.dispose]();
      await server.stop();
      await dir[Symbol.asyncDispose]();
    },
  };
}
