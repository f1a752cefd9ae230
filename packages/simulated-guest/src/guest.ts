/**
 * A toy in place of a guest and its agent, for a VMM that runs no guest: the fake Cloud Hypervisor.
 * The simulated driver has the same toy as a Python program, which costs less to start
 * (apps/node-agent/src/drivers/simulated/vmm). One suite runs the same cases against both
 * (apps/node-agent/test/simulated-guest.it.test.ts).
 *
 * `server` speaks the guest agent's HTTP; the owner of the guest lets it listen, or passes
 * connections to it. Requests that come while the vCPUs are paused wait. The toy knows assignments,
 * `print(name)` and files. Some variables have a meaning: `active_executions = 1` makes the toy
 * busy, `activity_delay_ms = 500` delays its report of activity, and `port_3000 = 45678` opens its
 * port 3000: tunnels to it end at port 45678 of the machine's loopback.
 */
import { createServer, type IncomingMessage, type Server } from "node:http";
import { connect } from "node:net";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { readDisk, writeDisk } from "./disk.ts";

const PORTS_WAIT_MS = 20_000;
const PORTS_LOOK_MS = 20;

interface Memory {
  variables: Record<string, string>;
  agentKey?: string;
  sandboxId?: string;
}

type Route = (body: Record<string, unknown>) => unknown;

export interface SimulatedGuestOptions {
  /** Path of the image with the guest's files. */
  diskPath: string;
  /** Called at a shutdown request: the VMM ends the VM. */
  onPowerOff: () => void;
}

export class SimulatedGuest {
  readonly server: Server;
  private memory: Memory = { variables: {} };
  private runs = false;
  private lastRequestAtMs = performance.now();
  private readonly held: (() => void)[] = [];
  private readonly routes: Record<string, Route>;
  private readonly options: SimulatedGuestOptions;

  constructor(options: SimulatedGuestOptions) {
    this.options = options;
    this.routes = this.makeRoutes();
    this.server = createServer((incoming, response) => {
      this.answer(incoming).then(
        ({ status, body }) =>
          response
            .writeHead(status, { "content-type": "application/json" })
            .end(JSON.stringify(body)),
        () => response.destroy(),
      );
    });
    this.server.on(
      "upgrade",
      (incoming, socket, head) =>
        void this.whenRunning().then(() => this.openTunnel(incoming, socket, head)),
    );
  }

  get isRunning(): boolean {
    return this.runs;
  }

  run(): void {
    this.runs = true;
    for (const go of this.held.splice(0)) go();
  }

  pause(): void {
    this.runs = false;
  }

  saveMemory(): Buffer {
    return Buffer.from(JSON.stringify(this.memory));
  }

  loadMemory(image: Buffer): void {
    this.memory = JSON.parse(image.toString("utf8")) as Memory;
  }

  private makeRoutes(): Record<string, Route> {
    const { diskPath, onPowerOff } = this.options;
    const identity = (body: Record<string, unknown>) => this.take(body);
    return {
      "/health": () => ({ status: "healthy" }),
      "/info": () => ({ vm_id: this.memory.sandboxId ?? "" }),
      "/execute": (body) => this.execute(body["code"] as string),
      "/files/write": (body) => {
        writeDisk(diskPath, {
          ...readDisk(diskPath),
          [String(body["path"])]: String(body["content"]),
        });
        return { path: body["path"] };
      },
      "/files/read": (body) => ({
        path: body["path"],
        content: readDisk(diskPath)[String(body["path"])] ?? null,
      }),
      "/_torpor/warm": () => ({}),
      "/_torpor/activity": () => this.activity(),
      "/_torpor/ports": (query) => this.changedPorts(query["after"] as string | undefined),
      "/_torpor/prepare-pause": () => ({ frozen: true, synced: true }),
      "/_torpor/thaw": () => ({}),
      "/_torpor/post-restore": identity,
      "/_torpor/post-boot": identity,
      "/_torpor/shutdown": () => {
        setImmediate(onPowerOff);
        return {};
      },
    };
  }

  private async answer(incoming: IncomingMessage): Promise<{ status: number; body: unknown }> {
    const body = await bodyOf(incoming);
    await this.whenRunning();
    const url = new URL(incoming.url ?? "/", "http://guest");
    if (!url.pathname.startsWith("/_torpor")) this.lastRequestAtMs = performance.now();
    const route = this.routes[url.pathname];
    if (route === undefined)
      return { status: 404, body: { error: "unknown path", code: "NOT_FOUND" } };
    try {
      return {
        status: 200,
        body: await route({ ...Object.fromEntries(url.searchParams), ...body }),
      };
    } catch (error) {
      return {
        status: 500,
        body: {
          code: "INTERNAL_ERROR",
          message: error instanceof Error ? error.message : String(error),
        },
      };
    }
  }

  private async whenRunning(): Promise<void> {
    if (!this.runs) await new Promise<void>((resolve) => this.held.push(resolve));
  }

  private take(body: Record<string, unknown>): unknown {
    this.memory.agentKey = String(body["agentKey"]);
    this.memory.sandboxId = String(body["sandboxId"]);
    return {};
  }

  private async activity(): Promise<unknown> {
    await sleep(this.number("activity_delay_ms"));
    return {
      active_requests: 0,
      active_executions: this.number("active_executions"),
      open_streams: 0,
      last_activity_ms_ago: Math.round(performance.now() - this.lastRequestAtMs),
    };
  }

  private async changedPorts(after: string | undefined): Promise<unknown> {
    const deadline = performance.now() + PORTS_WAIT_MS;
    const etag = () => this.openPorts().join(",") || "none";
    while (etag() === after && performance.now() < deadline) await sleep(PORTS_LOOK_MS);
    return { ports: this.openPorts(), etag: etag() };
  }

  private openPorts(): number[] {
    const names = Object.keys(this.memory.variables).flatMap(
      (name) => /^port_(\d+)$/.exec(name)?.[1] ?? [],
    );
    return names
      .map(Number)
      .filter((port) => this.loopbackPortOf(port) !== undefined)
      .toSorted((a, b) => a - b);
  }

  /** Undefined if nothing listens there. */
  private loopbackPortOf(port: number): number | undefined {
    const target = this.number(`port_${port}`);
    return target > 0 && target < 65_536 ? target : undefined;
  }

  /** Value of a variable; 0 without a number. */
  private number(name: string): number {
    return Number(this.memory.variables[name]) || 0;
  }

  private execute(code: string): unknown {
    const startedAt = performance.now();
    const answer = { stdout: "", stderr: "", exit_code: 0, success: true, execution_time: 0 };
    const { variables } = this.memory;
    const assigned = /^\s*(\w+)\s*=\s*(.+)$/.exec(code);
    const printed = /^\s*print\((\w+)\)\s*$/.exec(code)?.[1];
    if (assigned !== null) variables[assigned[1] ?? ""] = (assigned[2] ?? "").trim();
    else if (printed !== undefined && variables[printed] !== undefined)
      answer.stdout = `${variables[printed]}\n`;
    else
      Object.assign(answer, {
        stderr: `NameError: name '${printed ?? code}' is not defined\n`,
        exit_code: 1,
        success: false,
      });
    answer.execution_time = (performance.now() - startedAt) / 1000;
    return answer;
  }

  private openTunnel(incoming: IncomingMessage, socket: Duplex, head: Buffer): void {
    const target = this.loopbackPortOf(
      Number(new URL(incoming.url ?? "/", "http://guest").searchParams.get("port")),
    );
    if (target === undefined) {
      const body = JSON.stringify({ code: "PORT_NOT_OPEN", message: "nothing listens there" });
      socket.end(
        `HTTP/1.1 404 Refused\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
      );
      return;
    }
    const inside = connect(target, "127.0.0.1");
    for (const end of [inside, socket]) end.on("error", () => end.destroy());
    socket.write(
      "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: torpor-tunnel\r\n\r\n",
    );
    inside.write(head);
    inside.pipe(socket).pipe(inside);
    inside.once("close", () => socket.destroy());
    socket.once("close", () => inside.destroy());
  }
}

async function bodyOf(incoming: IncomingMessage): Promise<Record<string, unknown>> {
  const chunks: Buffer[] = [];
  for await (const chunk of incoming as AsyncIterable<Buffer>) chunks.push(chunk);
  return chunks.length === 0
    ? {}
    : (JSON.parse(Buffer.concat(chunks).toString("utf8")) as Record<string, unknown>);
}
