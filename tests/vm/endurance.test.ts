/**
 * Many repetitions: a sandbox that is paused and resumed over and over, and sandboxes that come and
 * go by the dozen. What must not change does not change, and what must not grow does not grow. A
 * run with --all does a few; TORPOR_TEST_CYCLES and TORPOR_TEST_CHURN set the numbers
 * (docs/testing.md).
 */
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { listVmProcesses } from "@torpor/fleet";
import { python, startVmFleet, type TestFleet, until } from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";

const CYCLES = Number(process.env["TORPOR_TEST_CYCLES"] ?? 6);
const CHURN = Number(process.env["TORPOR_TEST_CHURN"] ?? 10);
const WORKERS = Math.min(10, Math.ceil(CHURN / 5));
const CYCLE_LIMIT_MS = 60_000;
/**
 * Allowed difference between snapshots of one sandbox, from the guest's page cache and logs. Less
 * than one snapshot.
 */
const SLACK_BYTES = 128 * 1024 ** 2;

let fleet: TestFleet;
beforeAll(async () => {
  // A sweep every second removes earlier snapshots from the store as soon as they are garbage.
  fleet = await startVmFleet({
    hosts: 1,
    schedulers: 1,
    hostEnv: { SNAPSHOT_SWEEP_SECONDS: "1", SNAPSHOT_GRACE_SECONDS: "1" },
  });
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

const hostDir = () => join(fleet.fleet.dir, "hosts/host-1");
const agentPid = () => fleet.fleet.component("host-1").process?.pid ?? 0;
const openFiles = () => readdirSync(`/proc/${agentPid()}/fd`).length;
/**
 * Bytes on the host's own disk and in the store. du complains about files that vanish while it
 * reads, and counts the others.
 */
const allocatedBytes = () =>
  spawnSync(
    "du",
    ["--summarize", "--block-size=1", hostDir(), join(fleet.fleet.dir, "snapshots")],
    { encoding: "utf8" },
  )
    .stdout.trim()
    .split("\n")
    .reduce((sum, line) => sum + Number(line.split("\t")[0]), 0);
const processes = async () => (await listVmProcesses(fleet.fleet.dir)).length;
const PREPARE = [
  "import hashlib, os, subprocess",
  "buffer = bytearray(os.urandom(64 * 1024 * 1024))",
  "os.makedirs('/workspace/tree/a/b', exist_ok=True)",
  "for n in range(50): open(f'/workspace/tree/a/b/{n}', 'wb').write(os.urandom(20000))",
  "hashes = lambda: hashlib.sha256(buffer).hexdigest() + ' ' + subprocess.check_output(\"find /workspace/tree -type f | sort | xargs sha256sum | sha256sum\", shell=True, text=True).split()[0]",
  "print(hashes())",
].join("\n");

test(
  `S1, S4, S6, S17, S45: ${CYCLES} pauses and resumes of one sandbox: memory and files are the same after each, and the host keeps nothing`,
  { timeout: 120_000 + CYCLES * CYCLE_LIMIT_MS, tags: ["exhaustive"] },
  async () => {
    const sandbox = await fleet.createSandbox();
    const { id } = sandbox;
    const { sandboxes } = fleet.client;
    const before = await python(sandbox, PREPARE);
    expect(before).toMatch(/^[0-9a-f]{64} [0-9a-f]{64}$/);
    let first: { openFiles: number; pausedBytes: number } | undefined;
    for (let cycle = 1; cycle <= CYCLES; cycle += 1) {
      expect(await sandboxes.pause(id), `pause ${cycle}`).toMatchObject({
        status: "paused",
      });
      expect(await processes()).toBe(0);
      // The copy to the store continues after the pause, and holds files open until its end.
      await fleet.untilSandbox(
        "the copy in the store",
        id,
        ({ durability }) => durability === "replicated",
        CYCLE_LIMIT_MS,
      );
      first ??= { openFiles: openFiles(), pausedBytes: allocatedBytes() };
      const limit = first.pausedBytes + SLACK_BYTES;
      await until(
        `at most ${limit} bytes on disk after pause ${cycle}`,
        () => allocatedBytes() < limit,
        CYCLE_LIMIT_MS,
      );
      expect(await sandboxes.resume(id), `resume ${cycle}`).toMatchObject({
        status: "running",
      });
      expect(await processes()).toBe(1);
      expect(await python(sandbox, "print(hashes())"), `after cycle ${cycle}`).toBe(before);
    }
    await until(
      "no more open files than after the first pause",
      () => openFiles() <= (first?.openFiles ?? 0) + 4,
    );
    await sandboxes.delete(id);
    await until("the end of its process", async () => (await processes()) === 0);
  },
);

test(
  `S17: ${CHURN} sandboxes created and deleted by ${WORKERS} workers leave no process and no file`,
  { timeout: 120_000 + CHURN * CYCLE_LIMIT_MS, tags: ["exhaustive"] },
  async () => {
    const filesBefore = openFiles();
    let left = CHURN;
    const work = async () => {
      while (left > 0) {
        left -= 1;
        const sandbox = await fleet.createSandbox();
        expect(await python(sandbox, "print(6 * 7)")).toBe("42");
        await fleet.client.sandboxes.delete(sandbox.id);
      }
    };
    await Promise.all(Array.from({ length: WORKERS }, work));
    await until("no process", async () => (await processes()) === 0);
    await until(
      "no directory",
      () =>
        readdirSync(join(hostDir(), "vm")).length + readdirSync(join(hostDir(), "trash")).length ===
        0,
    );
    await until("no open file", () => openFiles() <= filesBefore + 4);
  },
);
