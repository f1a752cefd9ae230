/**
 * Distinguishes clients that left from clients that a pause cut off. A pause breaks every
 * connection of the guest, but the clients' executions continue after the resume: only a client
 * that leaves by itself ends its execution.
 */
import type { Server } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";

export class Connections {
  private readonly open = new Set<Duplex>();
  private readonly severed = new WeakSet<Duplex>();
  private isPausing = false;

  watch(server: Server): void {
    server.on("connection", (socket: Socket) => {
      this.open.add(socket);
      socket.once("close", () => {
        this.open.delete(socket);
        if (this.isPausing) this.severed.add(socket);
      });
    });
  }

  /** A connection that closes after this call counts as cut off by the pause. */
  pauseBegins(): void {
    this.isPausing = true;
  }

  /** The pause was cancelled: a connection that closes counts as left again. */
  pauseEnds(): void {
    this.isPausing = false;
  }

  /** Closes all connections after a restore: only the host's own call still has another end. */
  severOthers(mine: Duplex): void {
    for (const socket of this.open) {
      if (socket === mine) continue;
      this.severed.add(socket);
      socket.destroy();
    }
    this.isPausing = false;
  }

  /** Returns true if a closed connection was closed by its client. */
  hasLeft(socket: Duplex): boolean {
    return !this.isPausing && !this.severed.has(socket);
  }
}
