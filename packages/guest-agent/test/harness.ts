/**
 * The agent as a process of this machine, with its files in a directory of its own. Everything but
 * the Python kernel works here.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, realpath, rm, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { vi } from "vitest";
import { WebSocket } from "ws";

// Tests start many processes, which takes long on a busy machine.
vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

export const KEY = "test-key";
const AUTH = { "x-torpor-agent-key": KEY };
const PACKAGE = fileURLToPath(new URL("..", import.meta.url));

export interface ReceivedAnswer {
  status: number;
  headers: Headers;
  body: Record<string, unknown>;
}

export type ReceivedFrame = Record<string, unknown>;

export class AgentProcess implements AsyncDisposable {
  readonly root: string;
  readonly port: number;
  readonly process: ChildProcess;

  constructor(root: string, port: number, process: ChildProcess) {
    this.root = root;
    this.port = port;
    this.process = process;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  workspace(...names: string[]): string {
    return join(this.root, "workspace", ...names);
  }

  async fetch(
    method: string,
    path: string,
    init: RequestInit & { duplex?: "half" } = {},
  ): Promise<Response> {
    return await fetch(`${this.url}${path}`, {
      method,
      ...init,
      headers: { ...AUTH, ...(init.headers as Record<string, string>) },
    });
  }

  /** One call with a JSON body; the response is JSON for every status. */
  async call(
    method: string,
    path: string,
    body?: unknown,
    headers: Record<string, string> = {},
  ): Promise<ReceivedAnswer> {
    const text =
      body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) };
    const response = await this.fetch(method, path, {
      ...text,
      headers: { "content-type": "application/json", ...headers },
    });
    return {
      status: response.status,
      headers: response.headers,
      body: (await response.json()) as Record<string, unknown>,
    };
  }

  async shell(
    command: string,
    more: Record<string, unknown> = {},
  ): Promise<Record<string, unknown>> {
    const { status, body } = await this.call("POST", "/commands/run", { command, ...more });
    if (status !== 200) throw new Error(JSON.stringify(body));
    return body;
  }

  async connect(path: string, headers: Record<string, string> = AUTH): Promise<WebSocket> {
    const socket = new WebSocket(`ws://127.0.0.1:${this.port}${path}`, { headers });
    await once(socket, "open");
    return socket;
  }

  async activity(): Promise<Record<string, number>> {
    return (await this.call("GET", "/_torpor/activity")).body as Record<string, number>;
  }

  async rssBytes(): Promise<number> {
    const status = await readFile(`/proc/${this.process.pid}/status`, "utf8");
    return Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0) * 1024;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.process.kill("SIGKILL");
    if (this.process.exitCode === null && this.process.signalCode === null)
      await once(this.process, "exit");
    await rm(this.root, { recursive: true, force: true });
  }
}

/** `prepare` gets the agent's root before the agent starts. */
export async function startAgent(
  env: Record<string, string> = {},
  prepare: (root: string) => Promise<unknown> = () => Promise.resolve(),
): Promise<AgentProcess> {
  const root = await realpath(await mkdtemp(join(tmpdir(), "torpor-guest-")));
  for (const name of ["workspace", "tmp", "root", "home", "run/torpor"])
    await mkdir(join(root, name), { recursive: true });
  await writeFile(join(root, "run/torpor/agent-key"), KEY);
  await prepare(root);
  const port = await freePort();
  const child = spawn(process.execPath, [join(PACKAGE, "src/main.ts")], {
    env: {
      ...process.env,
      HOME: join(root, "root"),
      TORPOR_GUEST_ROOT: root,
      TORPOR_GUEST_PORT: String(port),
      TORPOR_GUEST_HELPERS: join(PACKAGE, "guest"),
      ...env,
    },
    stdio: ["ignore", "inherit", "inherit"],
  });
  const agent = new AgentProcess(root, port, child);
  await until(
    "the agent answers",
    async () => (await fetch(`${agent.url}/ping`).catch(() => undefined))?.ok === true,
  );
  return agent;
}

export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

export async function until(
  what: string,
  look: () => boolean | Promise<boolean>,
  limitMs = 30_000,
): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!(await look())) {
    if (performance.now() > deadline) throw new Error(`not seen within ${limitMs} ms: ${what}`);
    await sleep(20);
  }
}

export const send = (socket: WebSocket, message: unknown) =>
  socket.send(typeof message === "string" ? message : JSON.stringify(message));

/** Every frame up to the one for which `isLast` holds; then closes the connection. */
export async function frames(
  socket: WebSocket,
  isLast: (frame: ReceivedFrame) => boolean,
  limitMs = 20_000,
): Promise<ReceivedFrame[]> {
  const all: ReceivedFrame[] = [];
  const ended = new Promise<void>((resolve) => {
    socket.on("message", (data: Buffer) => {
      const frame = JSON.parse(data.toString()) as ReceivedFrame;
      all.push(frame);
      if (isLast(frame)) resolve();
    });
    socket.once("close", () => resolve());
  });
  const limit = sleep(limitMs, "limit", { ref: false });
  if ((await Promise.race([ended, limit])) === "limit")
    throw new Error(`no last frame within ${limitMs} ms: ${JSON.stringify(all.slice(-3))}`);
  socket.close();
  return all;
}

export const ofType = (type: string) => (frame: ReceivedFrame) => frame["type"] === type;
export const textOf = (all: ReceivedFrame[], type: string) =>
  all
    .filter(ofType(type))
    .map((frame) => String(frame["data"]))
    .join("");
