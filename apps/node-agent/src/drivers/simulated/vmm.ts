/**
 * The process of a simulated VM: `node vmm.ts <runDir> <guestPort>`, in the VM's directory. It starts with its vCPUs standing still.
 *
 * Control, one line per connection on `<runDir>/control.sock`: status | run | pause | save | load <base64>.
 * Guest: HTTP on 127.0.0.1:<guestPort>; requests that come while it stands still wait. It knows assignments and `print(name)`, and files. Some variables have a meaning:
 * `active_executions = 1` makes it busy, `activity_delay_ms = 500` slow to say so, and `port_3000 = 45678` opens its port 3000: tunnels to it end at port 45678 of the machine's loopback.
 */
import { closeSync, openSync, readSync, writeSync, fsyncSync } from "node:fs";
import { createServer as createHttpServer, type IncomingMessage } from "node:http";
import { connect, createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const [runDir = "", port = "0"] = process.argv.slice(2);
const DISK = "disk.raw";
const DISK_HEADER_BYTES = 8;
const PORTS_WAIT_MS = 20_000;

interface Memory {
  variables: Record<string, string>;
  agentKey?: string;
  sandboxId?: string;
}

let memory: Memory = { variables: {} };
let running = false;
let lastRequestAtMs = performance.now();
const held: (() => void)[] = [];

const control: Record<string, (argument: string) => string> = {
  status: () => (running ? "running" : "paused"),
  run: () => {
    running = true;
    for (const go of held.splice(0)) go();
    return "ok";
  },
  pause: () => {
    running = false;
    return "ok";
  },
  save: () => Buffer.from(JSON.stringify(memory)).toString("base64"),
  load: (argument) => {
    memory = JSON.parse(Buffer.from(argument, "base64").toString("utf8")) as Memory;
    return "ok";
  },
};

createServer({ allowHalfOpen: true }, (socket) => {
  let text = "";
  socket.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
  socket.on("error", () => socket.destroy());
  socket.on("end", () => {
    const [name = "", argument = ""] = text.trim().split(" ");
    socket.end(control[name]?.(argument) ?? "unknown");
  });
}).listen(`${runDir}/control.sock`);

const routes: Record<string, (body: Record<string, unknown>) => unknown> = {
  "/health": () => ({ status: "healthy" }),
  "/info": () => ({ vm_id: memory.sandboxId ?? "" }),
  "/execute": (body) => execute(body["code"] as string),
  "/files/write": (body) => {
    writeDisk({ ...readDisk(), [String(body["path"])]: String(body["content"]) });
    return { path: body["path"] };
  },
  "/files/read": (body) => ({ path: body["path"], content: readDisk()[String(body["path"])] ?? null }),
  "/_torpor/warm": () => ({}),
  "/_torpor/activity": async () => {
    await sleep(Number(memory.variables["activity_delay_ms"] ?? 0));
    return {
      active_requests: 0,
      active_executions: Number(memory.variables["active_executions"] ?? 0),
      open_streams: 0,
      last_activity_ms_ago: Math.round(performance.now() - lastRequestAtMs),
    };
  },
  "/_torpor/ports": (query) => changedPorts(query["after"] as string | undefined),
  "/_torpor/prepare-pause": () => ({ frozen: true, synced: true }),
  "/_torpor/thaw": () => ({}),
  "/_torpor/post-restore": identity,
  "/_torpor/post-boot": identity,
  "/_torpor/shutdown": () => {
    setImmediate(() => process.exit(0));
    return {};
  },
};

function identity(body: Record<string, unknown>): unknown {
  memory.agentKey = String(body["agentKey"]);
  memory.sandboxId = String(body["sandboxId"]);
  return {};
}

async function changedPorts(after: string | undefined): Promise<unknown> {
  const deadline = performance.now() + PORTS_WAIT_MS;
  const etag = () => openPorts().join(",") || "none";
  while (etag() === after && performance.now() < deadline) await sleep(20);
  return { ports: openPorts(), etag: etag() };
}

function openPorts(): number[] {
  const names = Object.keys(memory.variables).flatMap((name) => /^port_(\d+)$/.exec(name)?.[1] ?? []);
  return names
    .map(Number)
    .filter((port) => loopbackPortOf(port) !== undefined)
    .toSorted((a, b) => a - b);
}

/** Undefined: nothing listens there. */
function loopbackPortOf(port: number): number | undefined {
  return Number(memory.variables[`port_${port}`] ?? 0) || undefined;
}

function execute(code: string): unknown {
  const startedAt = performance.now();
  const answer = { stdout: "", stderr: "", exit_code: 0, success: true, execution_time: 0 };
  const assigned = /^\s*(\w+)\s*=\s*(.+)$/.exec(code);
  const printed = /^\s*print\((\w+)\)\s*$/.exec(code)?.[1];
  if (assigned !== null) memory.variables[assigned[1] ?? ""] = (assigned[2] ?? "").trim();
  else if (printed !== undefined && memory.variables[printed] !== undefined) answer.stdout = `${memory.variables[printed]}\n`;
  else Object.assign(answer, { stderr: `NameError: name '${printed}' is not defined\n`, exit_code: 1, success: false });
  answer.execution_time = (performance.now() - startedAt) / 1000;
  return answer;
}

const guest = createHttpServer((incoming, response) => {
  void bodyOf(incoming).then(async (body) => {
    await vcpusRun();
    const url = new URL(incoming.url ?? "/", "http://guest");
    if (!url.pathname.startsWith("/_torpor")) lastRequestAtMs = performance.now();
    const route = routes[url.pathname];
    const answer = await route?.({ ...Object.fromEntries(url.searchParams), ...body });
    response.writeHead(route === undefined ? 404 : 200, { "content-type": "application/json" });
    response.end(JSON.stringify(answer ?? { error: "unknown path", code: "NOT_FOUND" }));
  });
});
guest.on("upgrade", (incoming, socket, head) => {
  void vcpusRun().then(() => {
    const target = loopbackPortOf(Number(new URL(incoming.url ?? "/", "http://guest").searchParams.get("port")));
    if (target === undefined) {
      const body = JSON.stringify({ code: "PORT_NOT_OPEN", message: "nothing listens there" });
      return void socket.end(`HTTP/1.1 404 Refused\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
    }
    const inside = connect(target, "127.0.0.1");
    for (const end of [inside, socket]) end.on("error", () => end.destroy());
    socket.write("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: torpor-tunnel\r\n\r\n");
    inside.write(head);
    inside.pipe(socket).pipe(inside);
    inside.once("close", () => socket.destroy());
    socket.once("close", () => inside.destroy());
  });
});
guest.listen(Number(port), "127.0.0.1");

async function vcpusRun(): Promise<void> {
  if (!running) await new Promise<void>((resolve) => held.push(resolve));
}

async function bodyOf(incoming: IncomingMessage): Promise<Record<string, unknown>> {
  const chunks: Buffer[] = [];
  for await (const chunk of incoming as AsyncIterable<Buffer>) chunks.push(chunk);
  return chunks.length === 0 ? {} : (JSON.parse(Buffer.concat(chunks).toString("utf8")) as Record<string, unknown>);
}

/** The disk keeps its size: a length, then as much JSON. */
function readDisk(): Record<string, string> {
  const file = openSync(DISK, "r");
  try {
    const header = Buffer.alloc(DISK_HEADER_BYTES);
    readSync(file, header, 0, DISK_HEADER_BYTES, 0);
    const content = Buffer.alloc(Number(header.readBigUInt64BE()));
    readSync(file, content, 0, content.length, DISK_HEADER_BYTES);
    return content.length === 0 ? {} : (JSON.parse(content.toString("utf8")) as Record<string, string>);
  } finally {
    closeSync(file);
  }
}

function writeDisk(files: Record<string, string>): void {
  const content = Buffer.from(JSON.stringify(files));
  const header = Buffer.alloc(DISK_HEADER_BYTES);
  header.writeBigUInt64BE(BigInt(content.length));
  const file = openSync(DISK, "r+");
  try {
    writeSync(file, Buffer.concat([header, content]), 0, header.length + content.length, 0);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}
