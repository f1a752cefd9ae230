/**
 * The SQL migrations and the schema in the code agree, and any number of processes may apply the
 * migrations at once.
 */
import { execFile } from "node:child_process";
import { cp, readdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { migrate } from "@torpor/db";
import { type Databases, ROOT, sharedPostgres, tempDir } from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, beforeAll, expect, test } from "vitest";

const run = promisify(execFile);
const DB = join(ROOT, "packages/db");
const LIMIT_MS = 45_000;

let server: Databases;
beforeAll(() => {
  server = sharedPostgres();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

const drizzleKit = async (command: string, out: string) => {
  const args = [
    command,
    "--dialect=postgresql",
    "--schema=./src/schema.ts",
    ...(command === "generate" ? [`--out=${out}`] : ["--sql"]),
  ];
  return (
    await run(join(DB, "node_modules/.bin/drizzle-kit"), args, { cwd: DB, timeout: LIMIT_MS })
  ).stdout;
};

async function inDatabase<T>(url: string, body: (sql: postgres.Sql) => Promise<T>): Promise<T> {
  const sql = postgres(url, { max: 1, onnotice: () => {} });
  try {
    return await body(sql);
  } finally {
    await sql.end({ timeout: 5 });
  }
}

/**
 * Everything in which two databases can differ for us: columns, constraints and indexes, as the
 * server itself prints them.
 */
const catalogOf = (url: string) =>
  inDatabase(url, async (sql) => ({
    columns: [
      ...(await sql`SELECT table_name, column_name, data_type, datetime_precision, column_default, is_nullable, is_identity
        FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2`),
    ],
    constraints: [
      ...(await sql`SELECT conrelid::regclass::text AS relation, conname, pg_get_constraintdef(oid) AS definition
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2`),
    ],
    indexes: [
      ...(await sql`SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1`),
    ],
  }));

test("a database that was migrated is the one that the schema of the code describes", async () => {
  const [migrated, described] = [await server.database(), await server.emptyDatabase()];
  const statements = await drizzleKit("export", "");
  await inDatabase(described, (sql) => sql.unsafe(statements));
  const catalog = await catalogOf(described);
  expect(await catalogOf(migrated)).toEqual(catalog);
  expect(catalog.columns.length).toBeGreaterThan(50);
});

test("there is no change of the schema for which no migration was generated", async () => {
  await using dir = await tempDir();
  await cp(join(DB, "migrations"), dir.path, { recursive: true });
  const before = (await readdir(dir.path, { recursive: true })).toSorted();
  await drizzleKit("generate", dir.path);
  expect((await readdir(dir.path, { recursive: true })).toSorted()).toEqual(before);
});

test("four processes that migrate at once all succeed, and one more changes nothing", async () => {
  const url = await server.emptyDatabase();
  const script = `import { migrate } from ${JSON.stringify(join(DB, "src/index.ts"))}; await migrate(process.argv[1]);`;
  const one = () =>
    run(process.execPath, ["--input-type=module", "--eval", script, url], { timeout: LIMIT_MS });
  await Promise.all(Array.from({ length: 4 }, one));
  const applied = () =>
    inDatabase(url, async (sql) => [...(await sql`SELECT * FROM drizzle.__drizzle_migrations`)]);
  const once = await applied();
  const names = (await readdir(join(DB, "migrations"))).filter((name) => name.endsWith(".sql"));
  expect(once).toHaveLength(names.length);
  await migrate(url);
  expect(await applied()).toEqual(once);
  expect(await catalogOf(url)).toEqual(await catalogOf(await server.database()));
});
