/**
 * GET /_torpor/tunnel?port=N with `Upgrade: torpor-tunnel`: raw bytes both ways between the host
 * and a TCP port of the guest, on any address of the guest. Only the host may call it; preview URLs
 * use it.
 */
import { connect, type Socket } from "node:net";
import { networkInterfaces } from "node:os";
import type { Duplex } from "node:stream";
import { AgentError, invalidRequest, missingParameter } from "../errors.ts";
import type { RawRoute, StreamRequest } from "./upgrades.ts";

const CONNECT_LIMIT_MS = 5_000;
const SWITCHING =
  "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: torpor-tunnel\r\n\r\n";

export const tunnelRoute: RawRoute = {
  path: "/_torpor/tunnel",
  access: "control",
  protocol: "torpor-tunnel",
  handle: tunnel,
};

async function tunnel(
  socket: Duplex,
  head: Buffer,
  { query, stream }: StreamRequest,
): Promise<void> {
  const port = portOf(query.get("port"));
  const upstream = await reach(port);
  if (upstream === undefined)
    throw new AgentError(404, "PORT_NOT_OPEN", `nothing listens on port ${port}`);
  if (socket.destroyed) {
    upstream.destroy();
    return;
  }
  socket.write(SWITCHING);
  if (head.length > 0) upstream.write(head);
  await carry(socket, upstream, stream.touch);
}

function portOf(text: string | null): number {
  if (text === null || text === "") throw missingParameter("port");
  const port = Number(text);
  if (!/^\d{1,5}$/.test(text) || port < 1 || port > 65535)
    throw invalidRequest('"port" must be a number from 1 to 65535');
  return port;
}

/** Tries the loopback addresses first, then the other addresses of the guest. */
async function reach(port: number): Promise<Socket | undefined> {
  const others = Object.values(networkInterfaces()).flatMap((entries) =>
    (entries ?? []).filter((entry) => !entry.internal && entry.family === "IPv4"),
  );
  for (const host of ["127.0.0.1", "::1", ...others.map(({ address }) => address)]) {
    const socket = await connected(port, host);
    if (socket !== undefined) return socket;
  }
  return undefined;
}

function connected(port: number, host: string): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ port, host, allowHalfOpen: true, noDelay: true });
    const fail = () => {
      socket.destroy();
      resolve(undefined);
    };
    socket.once("error", fail);
    socket.setTimeout(CONNECT_LIMIT_MS, fail);
    socket.once("connect", () => {
      socket.setTimeout(0);
      socket.off("error", fail);
      resolve(socket);
    });
  });
}

/**
 * Resolves when both have closed. The end of one direction leaves the other open; an error ends
 * both.
 */
async function carry(one: Duplex, other: Duplex, touch: () => void): Promise<void> {
  const closed = (stream: Duplex) =>
    new Promise<void>((resolve) => void stream.once("close", () => resolve()));
  const both = Promise.all([closed(one), closed(other)]);
  for (const [from, to] of [
    [one, other],
    [other, one],
  ] as const) {
    from.on("error", () => to.destroy());
    from.on("data", touch);
    // Received data is still delivered; nothing can come back.
    from.once("close", () => void to.end(() => to.destroy()));
    from.pipe(to);
  }
  await both;
}
