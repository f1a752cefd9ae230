/**
 * A connection into a guest, whichever VMM carries it. Each is used once: none survives a pause.
 */
import { connect, type Socket } from "node:net";

/** Where a guest's agent is reached on this host. */
export type GuestAddress =
  | { kind: "tcp"; host: string; port: number }
  /**
   * Cloud Hypervisor's hybrid vsock: a UNIX socket that is told the guest's port first (its own
   * documentation of vsock).
   */
  | { kind: "vsock"; socketPath: string; port: number };

const CONNECT_LIMIT_MS = 10_000;
/** `OK <port>\n`; a guest cannot make it longer, a broken VMM could. */
const MAX_GREETING_BYTES = 32;

/** Those over TCP, by the address that they lead to. */
const connections = new Map<string, Set<Socket>>();

/**
 * Breaks the connections to an address that is gone. The end of a namespace is told to nobody: its
 * guest sends no more, not even an end, and whoever waits for an answer would wait for good.
 */
export function breakConnections(host: string): void {
  for (const socket of connections.get(host) ?? []) socket.destroy(new Error("the VM has ended"));
}

function remember(host: string, socket: Socket): void {
  const known = connections.get(host) ?? new Set();
  connections.set(host, known.add(socket));
  socket.once("close", () => {
    known.delete(socket);
    if (known.size === 0 && connections.get(host) === known) connections.delete(host);
  });
}

/**
 * Throws when there is no connection within `limitMs`: a guest that stands still takes none, and
 * says nothing.
 */
export async function connectGuest(
  address: GuestAddress,
  limitMs: number = CONNECT_LIMIT_MS,
): Promise<Socket> {
  const socket =
    address.kind === "tcp"
      ? connect(address.port, address.host)
      : connect({ path: address.socketPath });
  if (address.kind === "tcp") remember(address.host, socket);
  let timer: NodeJS.Timeout | undefined;
  try {
    await new Promise<void>((resolve, reject) => {
      timer = setTimeout(
        () => reject(new Error(`the guest took no connection within ${limitMs} ms`)),
        limitMs,
      );
      // It stays: an error without a listener would end the agent. Whoever gets the socket adds a
      // listener of its own.
      socket.on("error", (cause) =>
        reject(new Error(`the guest cannot be reached: ${cause.message}`, { cause })),
      );
      socket.once("close", () =>
        reject(new Error("the guest closed the connection: nothing listens there yet")),
      );
      socket.once("connect", () => {
        if (address.kind === "tcp") resolve();
        else waitForGuest(socket, address.port, resolve, reject);
      });
    });
    socket.setNoDelay(true);
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Asks for the port and takes in the answer's line alone: the bytes after it are the guest's
 * already.
 */
function waitForGuest(
  socket: Socket,
  port: number,
  resolve: () => void,
  reject: (error: Error) => void,
): void {
  let seen = Buffer.alloc(0);
  const take = () => {
    for (
      let chunk = socket.read(1) as Buffer | null;
      chunk !== null;
      chunk = socket.read(1) as Buffer | null
    ) {
      seen = Buffer.concat([seen, chunk]);
      if (chunk[0] !== 0x0a) {
        if (seen.length >= MAX_GREETING_BYTES)
          return reject(new Error(`the VMM's vsock answered "${seen.toString("latin1")}"`));
        continue;
      }
      socket.off("readable", take);
      const text = seen.toString("latin1").trim();
      return /^OK \d+$/.test(text)
        ? resolve()
        : reject(new Error(`the VMM's vsock answered "${text}"`));
    }
  };
  socket.on("readable", take);
  socket.write(`CONNECT ${port}\n`);
}
