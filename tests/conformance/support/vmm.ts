/** A VMM process and its raw API: one connection per call, no retries, no interpretation. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { request } from "node:http";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const CALL_LIMIT_MS = 120_000;
const START_LIMIT_MS = 60_000;
const EXIT_LIMIT_MS = 60_000;
const LOOK_MS = 20;

export interface Answer {
  status: number;
  text: string;
  /** Body of a JSON response: an error's messages, outermost first, or the object. */
  json: unknown;
}

export interface VmmOptions {
  bin: string;
  dir: string;
  args?: string[];
}

export class VmmProcess {
  readonly dir: string;
  readonly child: ChildProcess;
  stderr = "";
  private readonly exited: Promise<unknown>;

  /** Starts the VMM in the directory `dir`, with api.sock, events.json and vmm.log there. */
  constructor({ bin, dir, args = [] }: VmmOptions) {
    this.dir = dir;
    const options = [
      "--api-socket",
      "path=api.sock",
      "--event-monitor",
      "path=events.json",
      "--log-file",
      "vmm.log",
    ];
    this.child = spawn(bin, [...options, ...args], {
      cwd: dir,
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.child.stderr?.setEncoding("utf8").on("data", (text: string) => (this.stderr += text));
    this.exited = once(this.child, "close");
    this.exited.catch(() => {});
  }

  get socketPath(): string {
    return join(this.dir, "api.sock");
  }

  async untilReady(): Promise<this> {
    const deadline = performance.now() + START_LIMIT_MS;
    for (;;) {
      const answer = await this.get("vmm.ping").catch(() => undefined);
      if (answer?.status === 200) return this;
      if (this.child.exitCode !== null)
        throw new Error(`the VMM ended at once with ${this.child.exitCode}: ${this.stderr}`);
      if (performance.now() > deadline) throw new Error("the VMM does not answer vmm.ping");
      await sleep(LOOK_MS);
    }
  }

  get(call: string): Promise<Answer> {
    return callApi(this.socketPath, "GET", call, undefined);
  }

  put(call: string, body?: unknown): Promise<Answer> {
    return callApi(
      this.socketPath,
      "PUT",
      call,
      body === undefined ? undefined : JSON.stringify(body),
    );
  }

  putText(call: string, body: string): Promise<Answer> {
    return callApi(this.socketPath, "PUT", call, body);
  }

  /** State of the VM; "none" without a VM. */
  async state(): Promise<string> {
    const { status, json } = await this.get("vm.info");
    return status === 200 ? (json as { state: string }).state : "none";
  }

  events(): string[] {
    const blocks = readFileSync(join(this.dir, "events.json"), "utf8").split("\n\n");
    return blocks
      .filter((block) => block.trim() !== "")
      .map((block) => {
        const { source, event } = JSON.parse(block) as { source: string; event: string };
        return `${source} ${event}`;
      });
  }

  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  async exit(): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
    await within(this.exited, EXIT_LIMIT_MS, "the VMM does not end");
    return { code: this.child.exitCode, signal: this.child.signalCode };
  }
}

function callApi(
  socketPath: string,
  method: string,
  call: string,
  body: string | undefined,
): Promise<Answer> {
  const headers =
    body === undefined
      ? {}
      : { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
  return new Promise<Answer>((resolve, reject) => {
    const outgoing = request(
      { socketPath, path: `/api/v1/${call}`, method, agent: false, headers },
      (incoming) => {
        let text = "";
        incoming.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
        incoming.on("error", reject);
        incoming.on("end", () =>
          resolve({ status: incoming.statusCode ?? 0, text, json: jsonOf(text) }),
        );
      },
    );
    outgoing.setTimeout(CALL_LIMIT_MS, () =>
      outgoing.destroy(new Error(`${call} was not answered within ${CALL_LIMIT_MS} ms`)),
    );
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}

export function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** A connection without HTTP, which keeps everything that it receives. */
export class RawConnection {
  readonly socket: Socket;
  received = "";
  isClosed = false;

  static async open(path: string): Promise<RawConnection> {
    const socket = connect(path);
    const connection = new RawConnection(socket);
    await once(socket, "connect");
    return connection;
  }

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.setEncoding("utf8").on("data", (text: string) => (this.received += text));
    socket.on("error", () => {});
    for (const end of ["end", "close"]) socket.on(end, () => (this.isClosed = true));
  }

  send(text: string): void {
    this.socket.write(text);
  }

  /** Waits for the expected data, the end of the connection, or the time limit. */
  async until(isEnough: (received: string) => boolean, limitMs: number): Promise<void> {
    const deadline = performance.now() + limitMs;
    while (!isEnough(this.received) && !this.isClosed && performance.now() < deadline)
      await sleep(LOOK_MS);
  }
}

async function within<T>(promise: Promise<T>, limitMs: number, message: string): Promise<T> {
  const limit = new AbortController();
  const expired = sleep(limitMs, undefined, { signal: limit.signal }).then(
    () => {
      throw new Error(`${message} within ${limitMs} ms`);
    },
    () => new Promise<never>(() => {}),
  );
  try {
    return await Promise.race([promise, expired]);
  } finally {
    limit.abort();
  }
}
