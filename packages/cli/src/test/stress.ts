/**
 * `torpor test --stress <file…>`: runs each file repeatedly, its tests in another order each time,
 * under load on every processor and the disk, in a checkout whose path is long and has a space. A
 * failure here is a failure in CI some day.
 */
import { spawn } from "node:child_process";
import { availableParallelism } from "node:os";
import { existsSync } from "node:fs";
import { cp, rm } from "node:fs/promises";
import { join, relative, resolve } from "node:path";
import { copyCheckout } from "@torpor/testkit/checkout";
import { addReport, emptyReport, type TestReport } from "./reporter.ts";
import { ordinaryOnly, runVitest, type TestPlace } from "./run-vitest.ts";

const FAILURES = ".torpor/failures";
const PATH_LENGTH = 90;
/** Files of this size are written and synced, one after the other. */
const DISK_LOAD_BYTES = 32 * 1024 ** 2;

type Write = (line: string) => void;

export interface Stress {
  files: string[];
  times: number;
  /** Also runs tests tagged `exhaustive`. */
  isExhaustive: boolean;
}

export async function runStress(
  { root, signal }: TestPlace,
  { files, ...stress }: Stress,
  seed: number,
  write: Write,
): Promise<TestReport> {
  const checkout = longPath(root);
  const total = emptyReport();
  await rm(checkout, { recursive: true, force: true });
  await copyCheckout(checkout);
  const load = startLoad(join(checkout, ".torpor/load"));
  try {
    const place = { root: checkout, signal };
    for (const file of files)
      addReport(total, await repeat(place, relative(root, resolve(file)), stress, seed, write));
    return total;
  } finally {
    load[Symbol.dispose]();
    // The report of a failure refers to evidence in the original checkout.
    const failures = join(checkout, FAILURES);
    if (existsSync(failures)) await cp(failures, join(root, FAILURES), { recursive: true });
    await rm(checkout, { recursive: true, force: true });
  }
}

async function repeat(
  place: TestPlace,
  file: string,
  { times, isExhaustive }: Omit<Stress, "files">,
  seed: number,
  write: Write,
): Promise<TestReport> {
  const total = emptyReport();
  let green = 0;
  for (let time = 0; time < times; time += 1) {
    const args = ["--sequence.shuffle.tests", ...ordinaryOnly(isExhaustive), file];
    const { report, seconds } = await runVitest(place, "stress", seed + time, args, false);
    const isGreen = report.failed === 0 && report.passed > 0;
    green += isGreen ? 1 : 0;
    write(
      `${isGreen ? "green" : "red  "}  ${time + 1} of ${times}  ${seconds.toFixed(1)} s  seed ${seed + time}  ${file}`,
    );
    if (report.passed + report.failed === 0) report.failures.push(`${file}: no test ran`);
    addReport(total, { ...report, files: [] });
  }
  write(`${file}: green ${green} times of ${times}`);
  return { ...total, failed: Math.max(total.failed, total.failures.length) };
}

/** A path below `.torpor/`, as long as that of a real checkout may be, with a space. */
function longPath(root: string): string {
  const base = join(root, ".torpor/stress");
  const name = "a checkout".padEnd(
    Math.max(12, PATH_LENGTH - base.length - 1),
    "-with-a-long-name",
  );
  return join(base, name);
}

/** One busy process per processor, and one that writes to the disk. */
function startLoad(dir: string): Disposable {
  const busy = Array.from({ length: availableParallelism() }, () => startProgram("for (;;);"));
  const disk = startProgram(`
    const { closeSync, fsyncSync, mkdirSync, openSync, writeSync } = require("node:fs");
    mkdirSync(${JSON.stringify(dir)}, { recursive: true });
    const block = Buffer.alloc(${DISK_LOAD_BYTES}, 1);
    for (;;) {
      const file = openSync(${JSON.stringify(join(dir, "file"))}, "w");
      writeSync(file, block);
      fsyncSync(file);
      closeSync(file);
    }`);
  return { [Symbol.dispose]: () => [...busy, disk].forEach((child) => child.kill("SIGKILL")) };
}

const startProgram = (code: string) =>
  spawn(process.execPath, ["--eval", code], { stdio: "ignore" });
