/**
 * Evidence of a failed test: `.torpor/failures/<file>/<test>/` with the failure, and the logs and
 * rows of the servers, fleets and databases of its file. Servers and fleets register themselves
 * here while they exist.
 */
import { appendFile, cp, mkdir, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { endsWithin } from "@torpor/service";
import postgres from "postgres";
import { ROOT } from "./root.ts";

export const FAILURES_DIRECTORY = join(ROOT, ".torpor/failures");
const KEEP_LIMIT_MS = 30_000;
const MAX_ROWS = 1_000;
const MAX_NAME_LENGTH = 80;

/** Writes its evidence into `dir`, which exists. */
type Keep = (dir: string) => Promise<void>;

const sources = new Map<Keep, string>();

/** `keep` is called for each failed test until the result is disposed. */
export function registerEvidence(name: string, keep: Keep): Disposable {
  sources.set(keep, name);
  return { [Symbol.dispose]: () => void sources.delete(keep) };
}

/** Relative to the root of the checkout. */
export const failureDirectory = (file: string, test: string) =>
  join(".torpor/failures", nameFor(file), nameFor(test));

/** Stops after a time limit: a server that hangs may be the reason of the failure. */
export async function keepEvidence(file: string, test: string, failure: string): Promise<void> {
  const dir = join(ROOT, failureDirectory(file, test));
  await mkdir(dir, { recursive: true });
  await writeFile(join(dir, "failure.txt"), failure);
  const keepAll = Promise.all(
    [...sources].map(([keep, name], at) => keepOne(join(dir, `${at + 1}-${name}`), keep)),
  );
  if (!(await endsWithin(keepAll, KEEP_LIMIT_MS)))
    await appendFile(
      join(dir, "failure.txt"),
      `\nnot everything could be kept within ${KEEP_LIMIT_MS} ms\n`,
    );
}

async function keepOne(dir: string, keep: Keep): Promise<void> {
  await mkdir(dir, { recursive: true });
  await keep(dir).catch((error: unknown) => writeFile(join(dir, "not-kept.txt"), String(error)));
}

/** Writes one file per table, with a line of JSON per row. */
export async function keepRows(dir: string, databaseUrl: string): Promise<void> {
  const sql = postgres(databaseUrl, { max: 1, connect_timeout: 5, onnotice: () => {} });
  try {
    const tables = await sql<{ name: string }[]>`
      SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'public'`;
    for (const { name } of tables) {
      const rows = await sql`SELECT * FROM ${sql(name)} LIMIT ${MAX_ROWS}`;
      if (rows.length > 0)
        await writeFile(
          join(dir, `${name}.jsonl`),
          rows.map((row) => `${JSON.stringify(row)}\n`).join(""),
        );
    }
  } finally {
    await sql.end({ timeout: 1 });
  }
}

/** Copies the files that exist. */
export async function keepFiles(dir: string, paths: string[]): Promise<void> {
  for (const path of paths)
    await cp(path, join(dir, basename(path)), { recursive: true }).catch(() => {});
}

function nameFor(text: string): string {
  return text.replaceAll(/[^A-Za-z0-9.]+/g, "-").slice(0, MAX_NAME_LENGTH);
}
