/**
 * Who has left, and who was cut off. A pause breaks every connection of the guest, but what the
 * client asked for goes on after the resume: only a client that goes away by itself ends its
 * execution.
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

  /** From here on a connection that ends was ended by the pause. */
  pauseBegins(): void {
    this.isPausing = true;
  }

  /** The pause did not come to pass: the connections are what they were. */
  pauseEnds(): void {
    this.isPausing = false;
  }

  /** After a restore: nobody is at the other end of any connection but that of the host's call. */
  severOthers(mine: Duplex): void {
    for (const socket of this.open) {
      if (socket === mine) continue;
      this.severed.add(socket);
      socket.destroy();
    }
    this.isPausing = false;
  }

  /** For a connection that has closed: whether the client did it. */
  hasLeft(socket: Duplex): boolean {
    return !this.isPausing && !this.severed.has(socket);
  }
}
