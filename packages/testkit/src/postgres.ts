/**
 * Real Postgres for tests; each test quickly gets its own database from a migrated template. All
 * files share one server, unless a file ends its server or changes what databases share, for
 * example users.
 */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { databaseUrl, preparePostgres } from "@torpor/fleet";
import { claimPort } from "@torpor/service";
import postgres from "postgres";
import { inject } from "vitest";
import { smallFilesDir } from "./basics.ts";
import { copyCluster, TEMPLATE_DATABASE, TEST_DATABASE_PASSWORD } from "./cluster.ts";
import { keepFiles, keepRows, registerEvidence } from "./evidence.ts";
import { serverProcess, type ServerProcess } from "./process.ts";

/** Disposing removes all databases that it made. */
export interface Databases extends AsyncDisposable {
  /** A fresh, migrated database; its connection string. */
  database(): Promise<string>;
  /** A database with nothing in it. */
  emptyDatabase(): Promise<string>;
}

export interface PostgresServer extends Databases, ServerProcess {}

/** Address of a server, for another process. */
export interface PostgresPlace {
  port: number;
  log: string;
}

/** Databases in the server that all files of the run share. */
export function sharedPostgres(): Databases {
  return databasesAt(inject("sharedPostgres"));
}

/** Starts a server for one test file. */
export async function startPostgres(): Promise<PostgresServer> {
  const { place, server, end } = await startServer();
  const databases = databasesAt(place);
  return {
    ...server,
    ...databases,
    [Symbol.asyncDispose]: async () => {
      databases.forget();
      await end();
    },
  };
}

/** Starts the server of `sharedPostgres`, for vitest's global set-up. */
export async function startSharedPostgres(): Promise<AsyncDisposable & { place: PostgresPlace }> {
  const { place, end } = await startServer();
  return { place, [Symbol.asyncDispose]: end };
}

async function startServer() {
  await using made = new AsyncDisposableStack();
  const dir = made.use(await smallFilesDir());
  const { port } = await claimPort();
  const access = { port, password: TEST_DATABASE_PASSWORD };
  await copyCluster(join(dir.path, "pg"));
  const command = await preparePostgres({ dir: join(dir.path, "pg"), isDurable: false, ...access });
  const log = join(dir.path, "log");
  const component = {
    name: "postgres",
    role: "postgres",
    address: `127.0.0.1:${port}`,
    healthUrl: databaseUrl(access),
    log,
    ...command,
  } as const;
  const server = serverProcess({ ...component }, "SIGINT");
  made.defer(() => server.stop());
  await server.start();
  const kept = made.move();
  return { place: { port, log }, server, end: () => kept.disposeAsync() };
}

function databasesAt({ port, log }: PostgresPlace): Databases & { forget(): void } {
  const url = (name?: string) => databaseUrl({ port, password: TEST_DATABASE_PASSWORD }, name);
  const run = async (...statements: string[]) => {
    const sql = postgres(url(), { max: 1, onnotice: () => {} });
    try {
      for (const statement of statements) await sql.unsafe(statement);
    } finally {
      await sql.end();
    }
  };
  const made: string[] = [];
  const evidence = registerEvidence("postgres", async (to) => {
    await keepFiles(to, [log]);
    // The newest database is that of the failed test.
    const newest = made.at(-1);
    if (newest !== undefined) await keepRows(to, url(newest));
  });
  const make = async (template: string) => {
    const name = `test_${randomBytes(6).toString("hex")}`;
    await run(`CREATE DATABASE ${name} TEMPLATE ${template}`);
    made.push(name);
    return url(name);
  };
  const forget = () => evidence[Symbol.dispose]();
  return {
    database: () => make(TEMPLATE_DATABASE),
    emptyDatabase: () => make("template0"),
    forget,
    [Symbol.asyncDispose]: async () => {
      forget();
      await run(...made.splice(0).map((name) => `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`));
    },
  };
}
