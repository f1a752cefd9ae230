/** Copies of this checkout in which the product may be broken and tests run. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, open, readFile, symlink } from "node:fs/promises";
import { join } from "node:path";
import { stripVTControlCharacters } from "node:util";
import { tempDir } from "@torpor/testkit/basics";
import { copyCheckout } from "@torpor/testkit/checkout";
import { RUN_VARIABLE } from "@torpor/testkit/leftovers";
import { sweepRun } from "@torpor/testkit/test-run";
import { mutate } from "./edit.ts";
import type { Mutation } from "./mutations.ts";

export const ROOT = join(import.meta.dirname, "../..");
/** Results of one run that later runs use, named by their inputs. */
const CACHE = ".torpor/cache";
const LIMIT_MS = 600_000;
const LAST_LINES = 20;

/** A copy in which programs run. */
export interface Copy {
  /** Root directory of the copy. */
  root: string;
  /** Path at which no file exists yet. */
  report: string;
  /**
   * Runs a program with Node.js. Returns its exit code. Throws when interrupted, and does not end
   * the program.
   */
  run(args: string[]): Promise<number | null>;
  /** Last lines of the newest program's output. */
  lastLines(): Promise<string>;
}

/**
 * Returns the result of `body`. All programs in the copy have ended by then, also when this throws:
 * when `signal` is aborted, or `body` takes too long.
 */
export async function inCopy<T>(
  mutations: Mutation[],
  signal: AbortSignal,
  body: (copy: Copy) => Promise<T>,
): Promise<T> {
  signal.throwIfAborted();
  await using dir = await tempDir();
  const limit = AbortSignal.timeout(LIMIT_MS);
  const copy = await makeCopy(dir.path, AbortSignal.any([signal, limit]));
  for (const mutation of mutations) await mutate(copy.root, mutation);
  try {
    return await body(copy);
  } catch (cause) {
    signal.throwIfAborted();
    if (!limit.aborted) throw cause;
    const said = await copy.lastLines();
    throw new Error(`it did not end within ${LIMIT_MS / 1000} s:\n${said}`, { cause });
  } finally {
    await sweep(dir.path);
  }
}

async function makeCopy(dir: string, signal: AbortSignal): Promise<Copy> {
  // Postgres may run as a user of its own, who must be able to enter the directory.
  await chmod(dir, 0o711);
  const [root, temporary, log] = [join(dir, "checkout"), join(dir, "tmp"), join(dir, "log")];
  await mkdir(temporary);
  await copyCheckout(root);
  await mkdir(join(ROOT, CACHE), { recursive: true });
  await symlink(join(ROOT, CACHE), join(root, CACHE));
  return {
    root,
    report: join(dir, "report.json"),
    run: async (args) => {
      await using output = await open(log, "w");
      const child = spawn(process.execPath, args, {
        cwd: root,
        env: { ...process.env, TMPDIR: temporary, [RUN_VARIABLE]: dir },
        stdio: ["ignore", output.fd, output.fd],
      });
      const [code] = (await once(child, "exit", { signal })) as [number | null];
      return code;
    },
    lastLines: async () => {
      const text = stripVTControlCharacters(await readFile(log, "utf8"));
      return text.trimEnd().split("\n").slice(-LAST_LINES).join("\n");
    },
  };
}

/**
 * Ends the programs of the copy, which is a run of its own. Throws the names of what cannot be
 * ended.
 */
async function sweep(dir: string): Promise<void> {
  const { failures } = await sweepRun(dir);
  if (failures.length > 0) throw new Error(`what a guard left stays: ${failures.join("; ")}`);
}
