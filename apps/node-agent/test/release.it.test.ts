/**
 * The release as it is installed: bundled, without the workspace around it; and the refusals of the
 * install script, which come before it changes anything.
 */
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { access, mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { claimPort } from "@torpor/service";
import { until } from "@torpor/testkit";
import { afterAll, beforeAll, expect, test } from "vitest";
import type * as SimulatedProgram from "../src/drivers/simulated/program.ts";
import { FenceFiles } from "../src/fence/files.ts";

let dir: string;
let program: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "release-"));
  program = join(dir, "torpor-node-agent.mjs");
  await build();
});
afterAll(async () => {
  await rm(dir, { recursive: true, force: true });
});

test("it holds the program and all that the install script installs", async () => {
  for (const name of [
    "install.sh",
    "node-agent.env",
    "modules.conf",
    "sysctl.conf",
    "torpor-node-agent",
    "systemd/torpor-fence.service",
    "systemd/torpor-node-agent.service",
    "systemd/torpor-vms.slice",
  ])
    await access(join(dir, "host", name));
  expect(await readFile(join(dir, "host/systemd/torpor-node-agent.service"), "utf8")).toContain(
    "KillMode=process",
  );
});

test("its parts run from anywhere, with nothing but Node.js", async () => {
  expect((await run(process.execPath, [program, "check"])).output).toContain("reflink");
  expect(await run(process.execPath, [program, "nonsense"])).toMatchObject({
    code: 2,
    output: expect.stringContaining("run, prepare, shut-down, collect, check, join") as string,
  });
  const half = { TLS_CERT_FILE: "/nowhere" };
  expect(await run(process.execPath, [program], half)).toMatchObject({
    code: 1,
    output: expect.stringContaining("TLS_KEY_FILE and TLS_CA_FILE belong together") as string,
  });
});

test("so does the simulated virtual machine, with Python", async () => {
  await mkdir(join(dir, "r1"));
  await writeFile(join(dir, "disk.raw"), Buffer.alloc(65_536));
  // Bundled as in the agent, so that it finds the program of the release.
  await build(`starter=${join(import.meta.dirname, "../src/drivers/simulated/program.ts")}`);
  const { simulatedVmm } = (await import(join(dir, "starter.mjs"))) as typeof SimulatedProgram;
  using claimed = await claimPort();
  const { command, args } = await simulatedVmm("r1", claimed.port);
  const vmm = spawn(command, args, { cwd: dir, stdio: "ignore" });
  try {
    expect(await answerOf(vmm.pid ?? 0, claimed.port)).toEqual({ status: "healthy" });
  } finally {
    vmm.kill("SIGKILL");
    await once(vmm, "exit");
  }
});

test("so does the fence, with next to nothing in it", async () => {
  const fenceFile = join(dir, "torpor-fence.mjs");
  // Small enough to prove that no client, schema or logger is bundled.
  expect((await stat(fenceFile)).size).toBeLessThan(64 * 1024);
  const dataDir = join(dir, "data");
  const fence = spawn(process.execPath, [fenceFile], {
    cwd: "/",
    stdio: "ignore",
    env: { DATA_DIR: dataDir },
  });
  try {
    await until("it says that it lives", () => new FenceFiles(dataDir).isFenceAlive());
  } finally {
    fence.kill("SIGKILL");
    await once(fence, "exit");
  }
});

test.each([
  [["--release"], "--release needs a value"],
  [["--nonsense", "x"], "there is no option '--nonsense'"],
])("install.sh %j says what is wrong", async (args, message) => {
  const { code, output } = await run("bash", [join(dir, "host/install.sh"), ...args]);
  expect(output).toContain(message);
  expect(code).toBe(1);
});

/** Runs the vCPUs, which are paused at first, and returns the guest's response. */
async function answerOf(pid: number, port: number): Promise<unknown> {
  for (let tries = 0; tries < 200; tries += 1) {
    try {
      const socket = createConnection({ path: `/proc/${pid}/cwd/r1/control.sock` });
      await once(socket, "connect");
      socket.end("run\n");
      await once(socket.resume(), "close");
      const response = await fetch(`http://127.0.0.1:${port}/health`, {
        signal: AbortSignal.timeout(5_000),
      });
      return await response.json();
    } catch {
      await sleep(100);
    }
  }
  throw new Error("it did not start");
}

async function build(...programs: string[]): Promise<void> {
  const built = await run(process.execPath, [
    join(import.meta.dirname, "../build.ts"),
    dir,
    ...programs,
  ]);
  if (built.code !== 0 || built.output !== "")
    throw new Error(`it could not be built: ${built.output}`);
}

async function run(
  command: string,
  args: string[],
  settings: Record<string, string> = {},
): Promise<{ code: number; output: string }> {
  return await new Promise((resolve) => {
    const env = { PATH: process.env["PATH"], TMPDIR: process.env["TMPDIR"], ...settings };
    execFile(command, args, { cwd: "/", env }, (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : Number(error.code), output: `${stdout}${stderr}` }),
    );
  });
}
