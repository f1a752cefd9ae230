/**
 * The host's end of a hybrid vsock: `CONNECT <port>\n`, then `OK <n>\n` and the bytes of the
 * connection, or a silent close if nothing listens on that port. While the vCPUs are paused, a
 * caller waits. A call before the guest's driver is up never gets a response.
 */
import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import { osError, VmError } from "./errors.ts";

const MAX_COMMAND_BYTES = 32;
/** The first of the ports that v53.0 counts. */
const FIRST_HOST_PORT = 1 << 30;
const BACKEND_ERROR = [
  "Error from device manager",
  "Cannot create virtio-vsock backend",
  "Error binding to the host-side Unix socket",
];

export interface VsockGuest {
  isUp: () => boolean;
  isRunning: () => boolean;
  listensOn: (port: number) => boolean;
  /** Takes the connection over. */
  accept: (socket: Socket) => void;
}

export class HybridVsock {
  private readonly server: Server;
  private readonly sockets = new Set<Socket>();
  private readonly waiting: (() => void)[] = [];
  private readonly guest: VsockGuest;
  private lastHostPort = FIRST_HOST_PORT;

  static async listen(path: string, guest: VsockGuest): Promise<HybridVsock> {
    const vsock = new HybridVsock(guest);
    try {
      vsock.server.listen(path);
      await once(vsock.server, "listening");
    } catch (error) {
      throw new VmError([...BACKEND_ERROR, osError(error)]);
    }
    return vsock;
  }

  private constructor(guest: VsockGuest) {
    this.guest = guest;
    this.server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) =>
      this.accept(socket),
    );
  }

  /** Serves the waiting callers, once the vCPUs run. */
  run(): void {
    for (const serve of this.waiting.splice(0)) serve();
  }

  /** Closes the server and its connections, and removes the socket. */
  close(): void {
    this.server.close();
    for (const socket of this.sockets) socket.destroy();
  }

  private accept(socket: Socket): void {
    this.sockets.add(socket);
    socket.once("close", () => this.sockets.delete(socket));
    socket.on("error", () => socket.destroy());
    if (!this.guest.isUp()) return;
    if (this.guest.isRunning()) this.readCommand(socket);
    else this.waiting.push(() => this.readCommand(socket));
  }

  private readCommand(socket: Socket): void {
    let text = Buffer.alloc(0);
    const read = (chunk: Buffer) => {
      text = Buffer.concat([text, chunk]);
      const end = text.indexOf("\n");
      if (end < 0 && text.length < MAX_COMMAND_BYTES) return;
      socket.off("data", read);
      socket.pause();
      const port = /^connect (\d+)$/i.exec(text.toString("latin1", 0, Math.max(end, 0)))?.[1];
      if (port === undefined || end >= MAX_COMMAND_BYTES) return void socket.destroy();
      if (end + 1 < text.length) socket.unshift(text.subarray(end + 1));
      this.connect(socket, Number(port));
    };
    socket.on("data", read);
    socket.resume();
  }

  private connect(socket: Socket, port: number): void {
    if (!this.guest.listensOn(port)) return void socket.destroy();
    this.lastHostPort += 1;
    socket.write(`OK ${this.lastHostPort}\n`);
    this.guest.accept(socket);
    // Bytes right after the command wait in the socket until it flows again.
    socket.resume();
  }
}
