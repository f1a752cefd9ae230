/**
 * A run of `./torpor test` with its own directory, .torpor/runs/<id>. The TMPDIR of all its tests
 * is in that directory, and by its name the next run finds what a killed run has left.
 */
import { createHash, randomBytes } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { mkdir, realpath, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { identify, isAlive, tryClaimName } from "@torpor/service";
import { type TestRunRecord, type SeenRun, standingOf } from "./belongs.ts";
import { readHere } from "./kernel.ts";
import { RUN_VARIABLE } from "./leftovers.ts";
import { sweepRun, type SweptRuns } from "./sweep.ts";

export { sweepRun };

type Write = (line: string) => void;

export interface TestRun extends AsyncDisposable {
  dir: string;
}

/** Short: socket paths below the directory are limited to 107 bytes. */
const ID_BYTES = 3;
const ID_PATTERN = /^[0-9a-f]{6}$/;

/**
 * Sweeps killed runs of this checkout, and begins a new one: from now on it has its own TMPDIR, for
 * this process and its children. Its end also ends what the tests have left, and removes the
 * directory.
 */
export async function beginTestRun(root: string, write: Write): Promise<TestRun> {
  const runs = await runsOf(root);
  await sweepKilledRuns(root, write);
  const dir = join(runs, randomBytes(ID_BYTES).toString("hex"));
  const before = { TMPDIR: process.env["TMPDIR"], [RUN_VARIABLE]: process.env[RUN_VARIABLE] };
  const tmp = join(dir, "tmp");
  {
    // Without its record, the run would look killed.
    using _claim = await claim(dir);
    await mkdir(dir);
    await mkdir(tmp);
    const { pidNamespace } = readHere();
    await writeFile(recordIn(dir), JSON.stringify({ ...identify(process.pid), pidNamespace }));
  }
  setEnvironment({ TMPDIR: tmp, [RUN_VARIABLE]: dir });
  return {
    dir,
    [Symbol.asyncDispose]: async () => {
      setEnvironment(before);
      using _claim = await claim(dir);
      tell(write, dir, "the tests", await sweepRun(dir));
    },
  };
}

/**
 * A run that cannot be swept stays, with a message. A run that another process sweeps is skipped.
 */
export async function sweepKilledRuns(root: string, write: Write): Promise<void> {
  const runs = await runsOf(root);
  for (const name of readdirSync(runs).filter((entry) => ID_PATTERN.test(entry))) {
    const dir = join(runs, name);
    using claimed = await claim(dir);
    if (claimed === undefined) continue;
    try {
      await sweepIfKilled(dir, write);
    } catch (error) {
      write(`${dir} stays: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
}

async function sweepIfKilled(dir: string, write: Write): Promise<void> {
  const seen = look(dir);
  const standing = seen === undefined ? "gone" : standingOf(seen, readHere());
  if (standing === "killed") tell(write, dir, "a killed run", await sweepRun(dir));
  if (standing === "foreign") write(`${dir} stays: it is of a run of user ${seen?.ownerUid}`);
  if (standing === "elsewhere") write(`${dir} stays: it is of a run in another container`);
}

async function runsOf(root: string): Promise<string> {
  const runs = join(await realpath(root), ".torpor/runs");
  await mkdir(runs, { recursive: true });
  return runs;
}

const recordIn = (dir: string) => join(dir, "run.json");

/** The right to begin, sweep or end this run; one process has it at a time. */
async function claim(dir: string): Promise<Disposable | undefined> {
  return await tryClaimName(`run-${createHash("sha256").update(dir).digest("hex")}`);
}

/** Undefined when the directory is gone. */
function look(dir: string): SeenRun | undefined {
  const ownerUid = statSync(dir, { throwIfNoEntry: false })?.uid;
  if (ownerUid === undefined) return undefined;
  const record = readRecord(dir);
  return { record, isRunnerAlive: record !== undefined && isAlive(record), ownerUid };
}

/** Undefined if the run was killed before it wrote the whole record, or while it was swept. */
function readRecord(dir: string): TestRunRecord | undefined {
  try {
    return JSON.parse(readFileSync(recordIn(dir), "utf8")) as TestRunRecord;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function tell(write: Write, dir: string, whose: string, { ended, failures }: SweptRuns): void {
  if (ended.length > 0) write(`ended what ${whose} left: ${ended.join(", ")}`);
  if (failures.length === 0) return;
  write(`${dir} stays: not all that ${whose} left could be ended: ${failures.join("; ")}`);
}

function setEnvironment(values: Record<string, string | undefined>): void {
  for (const [name, value] of Object.entries(values))
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
}
