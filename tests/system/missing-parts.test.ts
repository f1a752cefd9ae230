/**
 * A missing part gives one line that names the part and the remedy, and a fleet that cannot start
 * leaves nothing behind.
 */
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";
import { claimPort } from "@torpor/service";
import { ROOT, startNats, startTestFleet, tempDir, until } from "@torpor/testkit";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";

const run = promisify(execFile);
/** Time limit of a program that runs from its sources on a busy machine. */
const LIMIT_MS = 120_000;

let taken: Server;
let takenPort: number;
beforeEach(async () => {
  taken = createServer();
  await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve));
  const address = taken.address();
  takenPort = typeof address === "object" && address !== null ? address.port : 0;
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await new Promise((resolve) => taken.close(resolve));
});

/** Processes whose command line or environment names the directory. */
function processesOf(dir: string): string[] {
  return readdirSync("/proc").filter((pid) => {
    try {
      if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false;
      return (
        readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(dir) ||
        readFileSync(`/proc/${pid}/environ`, "utf8").includes(`${dir}/fleet`)
      );
    } catch {
      return false;
    }
  });
}

describe("FL1: a fleet that cannot start says why in one line, and leaves no process", () => {
  const NO_SUCH_PROGRAM = "/nowhere/program";
  test.each<[string, () => Parameters<typeof startTestFleet>[0], RegExp]>([
    [
      "QEMU",
      () => (vi.stubEnv("QEMU_BIN", NO_SUCH_PROGRAM), { driver: "qemu" }),
      /QEMU cannot be run as "\/nowhere\/program": install qemu-system-x86, or set QEMU_BIN/,
    ],
    [
      "nats-server",
      () => (vi.stubEnv("TORPOR_NATS_SERVER_BIN", NO_SUCH_PROGRAM), {}),
      /TORPOR_NATS_SERVER_BIN is \/nowhere\/program, .*: correct it, or unset it/,
    ],
    [
      "Postgres",
      () => (vi.stubEnv("TORPOR_POSTGRES_DIR", "/nowhere"), {}),
      /TORPOR_POSTGRES_DIR is \/nowhere, which holds no bin\/initdb: correct it, or unset it/,
    ],
    [
      "the port of the API",
      () => ({ gatewayPort: takenPort }),
      /port \d+ of 127.0.0.1 is taken, .* set TORPOR_GATEWAY_PORT/,
    ],
    [
      "the port of the edge",
      () => ({ edgePort: takenPort }),
      /port \d+ of some address of this machine is taken, .* set TORPOR_EDGE_PORT/,
    ],
  ])("%s", async (name, options, line) => {
    await using dir = await tempDir();
    vi.stubEnv("TMPDIR", dir.path);
    let isPrepared = false;
    const prepareImages = async () => await Promise.resolve(void (isPrepared = true));
    const message = await startTestFleet({
      hosts: 1,
      schedulers: 1,
      prepareImages,
      ...options(),
    }).then(
      () => "it started",
      (error: unknown) => (error instanceof Error ? error.message : String(error)),
    );
    expect(message).toMatch(line);
    expect(message.trim()).not.toContain("\n");
    expect(processesOf(dir.path)).toEqual([]);
    // Preparing images takes minutes, and is not begun for a fleet that cannot start. QEMU is the
    // exception: only the hosts find out whether QEMU can be run.
    expect(isPrepared).toBe(name === "QEMU");
  });
});

test("a command whose ports are taken ends: nothing that it held while it chose them keeps it alive", async () => {
  const script = `import { startTestFleet } from "@torpor/testkit"; await startTestFleet({ edgePort: ${takenPort} }).catch((error) => console.log(error.message));`;
  const { stdout } = await run(process.execPath, ["--input-type=module", "--eval", script], {
    cwd: import.meta.dirname,
    timeout: LIMIT_MS,
  });
  expect(stdout).toMatch(/^port \d+ of some address of this machine is taken.*\n$/);
});

describe("a program started by hand", () => {
  const start = async (app: string, env: Record<string, string>) =>
    await run(process.execPath, [join(ROOT, "apps", app, "src/main.ts")], {
      env: {
        PATH: process.env["PATH"],
        NODE_COMPILE_CACHE: process.env["NODE_COMPILE_CACHE"],
        ...env,
      },
      timeout: LIMIT_MS,
    }).then(
      () => ({ code: 0, stderr: "", stdout: "" }),
      (error: { code: number; stderr: string; stdout: string }) => error,
    );

  test.each([
    ["gateway", ["DATABASE_URL", "NATS_URL", "TOKEN_SECRET_FILE", "LISTEN_PORT", "EDGE_PORT"]],
    ["scheduler", ["DATABASE_URL", "NATS_URL"]],
    ["node-agent", ["DRIVER", "CAPACITY_VCPU"]],
  ])("names every problem of its configuration in one line, and ends: %s", async (app, names) => {
    const wrong = { LISTEN_PORT: "x", EDGE_PORT: "0", DRIVER: "xen", CAPACITY_VCPU: "0" };
    const { code, stderr, stdout } = await start(app, wrong);
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr.trim().split("\n")).toHaveLength(1);
    for (const name of names) expect(stderr).toContain(name);
  });

  test("names a secret file that is missing, in one line", async () => {
    await using dir = await tempDir();
    writeFileSync(join(dir.path, "secret"), "x".repeat(32));
    const { port } = await claimPort();
    const { code, stdout } = await start("gateway", {
      DATABASE_URL: `postgres://x:x@127.0.0.1:${port}/x`,
      NATS_URL: `nats://127.0.0.1:${port}`,
      TOKEN_SECRET_FILE: join(dir.path, "secret"),
      HOST_DATA_KEY_FILE: join(dir.path, "gone"),
      LISTEN_PORT: "0",
    });
    expect(code).toBe(1);
    const fatal = stdout.split("\n").filter((line) => line.includes('"level":"fatal"'));
    expect(fatal).toHaveLength(1);
    expect(fatal[0]).toContain(
      `the secret file ${join(dir.path, "gone")} cannot be read (ENOENT): make it, or correct the variable`,
    );
  });

  test.each(["gateway", "scheduler"])(
    "says once, in a line of its own, that the database cannot be reached, and goes on trying: %s",
    async (app) => {
      await using dir = await tempDir();
      await using nats = await startNats();
      writeFileSync(join(dir.path, "secret"), "x".repeat(32));
      writeFileSync(join(dir.path, "nats"), nats.as().password);
      const { port } = await claimPort();
      const secret = join(dir.path, "secret");
      const health = (await claimPort()).port;
      const child = spawn(process.execPath, [join(ROOT, "apps", app, "src/main.ts")], {
        stdio: ["ignore", "pipe", "ignore"],
        env: {
          PATH: process.env["PATH"],
          DATABASE_URL: `postgres://x:x@127.0.0.1:${port}/x`,
          NATS_URL: nats.url,
          NATS_USER: nats.as().user,
          NATS_PASSWORD_FILE: join(dir.path, "nats"),
          TOKEN_SECRET_FILE: secret,
          LISTEN_PORT: "0",
          HEALTH_PORT: String(health),
        },
      });
      let printed = "";
      child.stdout.on("data", (chunk: Buffer) => (printed += chunk.toString()));
      const lines = () =>
        printed
          .split("\n")
          .filter((line) =>
            line.includes("the database cannot be reached: start it, or correct DATABASE_URL"),
          );
      try {
        expect(await until("it is said", () => lines()[0])).toContain(
          `connect ECONNREFUSED 127.0.0.1:${port}`,
        );
        await until("it is up all the same", () => printed.includes(`${app} started`));
        expect(lines()).toHaveLength(1);
        const report = async () =>
          (await (await fetch(`http://127.0.0.1:${health}/health`)).json()) as {
            problems: object[];
          };
        const failing = {
          code: "ROUNDS_FAIL",
          since: expect.any(String),
          message: expect.stringContaining("ECONNREFUSED"),
        };
        await until(
          "the work that does not go on is reported",
          async () => (await report()).problems.length > 0,
        );
        expect((await report()).problems).toEqual(
          expect.arrayContaining([expect.objectContaining(failing)]),
        );
      } finally {
        child.kill("SIGKILL");
        await once(child, "close");
      }
    },
  );
});
