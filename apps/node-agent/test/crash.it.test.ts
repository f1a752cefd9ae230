/**
 * A host is lost before every durable step of every command and at its end; then another host takes
 * over what is left, and the command is delivered again. At whatever point: the command ends as it
 * would have, memory and files are as before, exactly the right VMM process runs, and nothing
 * half-made is left.
 *
 * At every point the host is lost inside this process (support/lost-host.ts), which starts no other
 * process than the VMM. At one point of each scenario, drawn in each run, a separate process is
 * killed. The tests tagged `exhaustive` kill one at every point, and compare what the killed host
 * leaves with what a lost host leaves.
 */
import { execFile } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { VmCommand } from "@torpor/contracts";
import { draws, tempDir, TEST_SEED } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Submitted } from "../src/lifecycle/context.ts";
import {
  expectTakenOver,
  type CrashGround,
  MEMORY_MIB,
  type Scenario,
  SCENARIOS,
  type Start,
  startOf,
} from "./support/crash-scenarios.ts";
import { DRIVER_NAMES, driverNamed } from "./support/drivers.ts";
import { differences, leftBehind } from "./support/left-behind.ts";
import { type Lost, loseHost } from "./support/lost-host.ts";
import { type Kind, killVmms, prepareImages, vmmProcesses } from "./support/test-host.ts";

const run = promisify(execFile);
const HOST = fileURLToPath(new URL("support/host-process.ts", import.meta.url));
const KILL_LIMIT_MS = 60_000;
const AT_ONCE = 4;
/**
 * Name of the directory above the hosts' directories. Its length tests that UNIX sockets, whose
 * paths have 107 bytes at most, work in a long path too, such as a user's checkout.
 */
const DEEP = "a-name".padEnd(107, "-that-is-long");

/**
 * Ends a host right before the `crashAt`th durable step of the command, or at the command's end if
 * there is no such step.
 */
type Crash = (
  ground: CrashGround,
  dir: string,
  command: VmCommand,
  crashAt: number,
) => Promise<Lost>;

const lose: Crash = async ({ driverName }, dir, command, crashAt) =>
  await loseHost(dir, driverNamed(driverName), command, crashAt);

const kill: Crash = async ({ driverName }, dir, command, crashAt) => {
  const args = [HOST, dir, driverName, String(crashAt), JSON.stringify(command)];
  const ended = await run(process.execPath, args, { timeout: KILL_LIMIT_MS }).catch(
    (error: { stdout: string; stderr: string; signal?: string }) => error,
  );
  if (!("signal" in ended) || ended.signal !== "SIGKILL")
    throw new Error(`the host did not kill itself: ${ended.stderr}`);
  const said = ended.stdout.split("\n").filter(Boolean);
  const lines = said.map((line) => JSON.parse(line) as { step?: string; accepted?: Submitted });
  return {
    steps: lines.flatMap(({ step }) => step ?? []),
    isAcknowledged: lines.some(({ accepted }) => accepted === "journalled"),
  };
};

interface Point {
  /** The `crashAt` of a crash. */
  at: number;
  name: string;
}

function pointsOf(steps: string[]): [...Point[], Point] {
  const before = steps.map((step, index) => ({
    at: index + 1,
    name: `before step ${index + 1} (${step})`,
  }));
  return [...before, { at: steps.length + 1, name: "at the end" }];
}

/** Draws one point, the same for the same seed. */
function drawnOf(points: [...Point[], Point], purpose: string): Point {
  return points[Math.floor(draws(purpose)() * points.length)] ?? points[0];
}

/** Hosts in the state before the scenario's command; their VMMs end with `body`. */
async function withHosts<T>(
  start: Start,
  count: number,
  body: (...dirs: string[]) => Promise<T>,
): Promise<T> {
  const dirs: string[] = [];
  try {
    while (dirs.length < count) dirs.push(await start.newHost());
    return await body(...dirs);
  } finally {
    for (const dir of dirs) await killVmms(vmmProcesses(dir));
  }
}

/** Runs several at once, until all are done. Returns the failures. */
async function failuresOf(
  todo: { name: string; body: () => Promise<unknown> }[],
): Promise<string[]> {
  const failures: string[] = [];
  const work = async () => {
    for (let next = todo.shift(); next !== undefined; next = todo.shift()) {
      const { name, body } = next;
      await body().catch((error: unknown) => failures.push(`${name}: ${String(error)}`));
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return failures;
}

const OF_EVERY_DRIVER: ReadonlySet<Kind> = new Set(["pause", "resume"]);
const titled = SCENARIOS.map((scenario) => {
  const { kind, before, elsewhere, points } = scenario;
  const title = `${[...before, kind].join(", ")}${elsewhere === true ? " on another host" : ""}`;
  return { title, points, scenario };
});

describe.each(DRIVER_NAMES)("S33: on %s, a host lost at any point of a command", (driverName) => {
  let root: Awaited<ReturnType<typeof tempDir>>;
  let ground: CrashGround;
  beforeAll(async () => {
    root = await tempDir();
    const deep = join(root.path, DEEP);
    const driver = driverNamed(driverName);
    const imageSha256 = await prepareImages(join(deep, "images"), driver, MEMORY_MIB);
    ground = { driverName, root: deep, imageSha256 };
  });
  afterAll(async () => {
    await root[Symbol.asyncDispose]();
  });

  /** Returns the steps of the host that was lost. */
  const crashOnce = async (scenario: Scenario, start: Start, crash: Crash, crashAt: number) =>
    await withHosts(start, 1, async (dir) => {
      const lost = await crash(ground, dir, start.command, crashAt);
      await expectTakenOver(ground, dir, scenario, start.command, lost);
      return lost.steps;
    });

  const crashBothWays = async (scenario: Scenario, start: Start, crashAt: number) =>
    await withHosts(start, 2, async (one, other) => {
      const lost = await lose(ground, one, start.command, crashAt);
      // The kill takes a while, in which the lost host must do nothing more.
      const killed = await kill(ground, other, start.command, crashAt);
      expect(killed).toEqual(lost);
      const driver = driverNamed(driverName);
      const found = differences(await leftBehind(one, driver), await leftBehind(other, driver));
      expect(found, `lost, and killed: ${found.join("; ")}`).toEqual([]);
      await expectTakenOver(ground, other, scenario, start.command, killed);
    });

  // The order of the steps belongs to the lifecycle and is the same for every driver. A driver has
  // its own files and steps only where a snapshot is written and read.
  const scenarios =
    driverName === "simulated"
      ? titled
      : titled.filter(
          ({ scenario }) => OF_EVERY_DRIVER.has(scenario.kind) && scenario.elsewhere !== true,
        );

  test.each(scenarios)("$title: $points points", { timeout: 600_000 }, async (given) => {
    const { title, scenario } = given;
    const start = await startOf(ground, scenario);
    const points = pointsOf(await crashOnce(scenario, start, lose, Infinity));
    const killed = drawnOf(points, `${driverName}, ${title}`);
    const failures = await failuresOf([
      {
        name: `killed ${killed.name}`,
        body: () => crashOnce(scenario, start, kill, killed.at),
      },
      ...points.slice(0, -1).map(({ at, name }) => ({
        name: `lost ${name}`,
        body: () => crashOnce(scenario, start, lose, at),
      })),
    ]);
    expect(failures, `drawn with TORPOR_TEST_SEED=${TEST_SEED}`).toEqual([]);
    expect(
      points.map(({ name }) => name),
      "where it can be lost",
    ).toHaveLength(scenario.points);
  });

  test.each(scenarios)(
    "$title: killed at each of $points points, it leaves what a lost one leaves",
    { timeout: 1_800_000, tags: ["exhaustive"] },
    async ({ scenario }) => {
      const start = await startOf(ground, scenario);
      const points = pointsOf(await crashOnce(scenario, start, lose, Infinity));
      const todo = points.map(({ at, name }) => ({
        name: `killed ${name}`,
        body: () => crashBothWays(scenario, start, at),
      }));
      expect(await failuresOf(todo)).toEqual([]);
    },
  );
});
