/** The machine and the commit of a measurement. */
import { execFile } from "node:child_process";
import { availableParallelism, cpus, totalmem } from "node:os";
import { promisify } from "node:util";
import {
  type BenchResult,
  type BenchMachine,
  RESULT_FORMAT,
  type StepResult,
} from "./report/result.ts";

const run = promisify(execFile);
const GIT_LIMIT_MS = 5_000;

const machine = (): BenchMachine => ({
  cpus: availableParallelism(),
  model: cpus()[0]?.model ?? "unknown",
  memoryMib: Math.round(totalmem() / 1024 ** 2),
  node: process.version,
});

/** Undefined without git, or outside a repository. */
async function commitOf(root: string): Promise<string | undefined> {
  const asked = run("git", ["describe", "--always", "--dirty"], {
    cwd: root,
    timeout: GIT_LIMIT_MS,
  });
  return await asked.then(
    ({ stdout }) => stdout.trim(),
    () => undefined,
  );
}

export async function resultOf(
  root: string,
  benchmark: string,
  settings: BenchResult["settings"],
  steps: StepResult[],
): Promise<BenchResult> {
  const commit = await commitOf(root);
  return {
    format: RESULT_FORMAT,
    benchmark,
    measuredAt: new Date().toISOString(),
    ...(commit === undefined ? {} : { commit }),
    machine: machine(),
    settings,
    steps,
  };
}
