/**
 * The HTTP server on the API socket. It has at most ten connections, and handles the requests of
 * all of them one by one.
 */
import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import { HttpParser, type Parsed, type FakeRequest } from "./http-parser.ts";
import type { SerialQueue } from "./serial-queue.ts";

const MAX_CONNECTIONS = 10;
const TOO_MANY = '{ "error": "Too many open connections" }';

export interface Response {
  status: number;
  body: string;
}

/** `close`: no response. `afterwards` runs once the response is sent. */
export type FakeAnswer = (
  | { kind: "response"; response: Response }
  | { kind: "busy" }
  | { kind: "close" }
) & { afterwards?: () => void };

export class ApiServer {
  private readonly server: Server;
  private readonly connections = new Set<Socket>();
  private readonly queue: SerialQueue;
  private readonly handle: (request: FakeRequest) => Promise<FakeAnswer>;

  constructor(queue: SerialQueue, handle: (request: FakeRequest) => Promise<FakeAnswer>) {
    this.queue = queue;
    this.handle = handle;
    this.server = createServer({ allowHalfOpen: true }, (socket) => this.accept(socket));
  }

  async listen(path: string): Promise<void> {
    this.server.listen(path);
    await once(this.server, "listening");
  }

  /** Closes the server and its connections, and removes the socket. */
  close(): void {
    this.server.close();
    for (const socket of this.connections) socket.destroy();
  }

  private accept(socket: Socket): void {
    socket.on("error", () => socket.destroy());
    if (this.connections.size >= MAX_CONNECTIONS) return void this.queue.run(() => refuse(socket));
    this.connections.add(socket);
    socket.once("close", () => this.connections.delete(socket));
    const parser = new HttpParser();
    socket.on("data", (chunk: Buffer) => {
      for (const parsed of parser.feed(chunk))
        void this.queue.run(() => this.serve(socket, parsed));
    });
    socket.once("end", () => void this.queue.run(() => socket.end()));
  }

  private async serve(socket: Socket, parsed: Parsed): Promise<void> {
    if (parsed.kind === "continue")
      return void socket.write(
        "HTTP/1.1 100 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n",
      );
    if (parsed.kind === "invalid") {
      const body = `{ "error": "${parsed.reason}\nAll previous unanswered requests will be dropped." }`;
      return void socket.write(render("Firecracker API", { status: 400, body }));
    }
    const answer = await this.handle(parsed.request);
    if (answer.kind === "close") socket.destroy();
    else if (answer.kind === "busy") refuse(socket);
    else
      await new Promise<void>((resolve) =>
        socket.write(render("Cloud Hypervisor API", answer.response), () => resolve()),
      );
    answer.afterwards?.();
  }
}

function refuse(socket: Socket): void {
  socket.end(
    `HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: ${TOO_MANY.length}\r\n\r\n${TOO_MANY}`,
  );
}

/**
 * A response without a reason phrase, but with the space before it. A 204 has no body and no type.
 */
function render(server: string, { status, body }: Response): string {
  const head = `HTTP/1.1 ${status} \r\nServer: ${server}\r\nConnection: keep-alive\r\n`;
  if (status === 204) return `${head}\r\n`;
  return `${head}Content-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
}
