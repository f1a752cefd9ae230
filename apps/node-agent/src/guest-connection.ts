/** Connections into a guest, over any VMM. Each connection is used once: none survives a pause. */
import { connect, type Socket } from "node:net";

/** Address of a guest agent on this host. */
export type GuestAddress =
  | { kind: "tcp"; host: string; port: number }
  /**
   * Cloud Hypervisor's hybrid vsock: a UNIX socket, on which the client first sends the guest's
   * port (see the vsock documentation of Cloud Hypervisor).
   */
  | { kind: "vsock"; socketPath: string; port: number };

const CONNECT_LIMIT_MS = 10_000;
/** Limit of `OK <port>\n`: a guest cannot make the greeting longer, a broken VMM could. */
const MAX_GREETING_BYTES = 32;

/** Open TCP connections, by host address. */
const connections = new Map<string, Set<Socket>>();

/**
 * Destroys the connections to an address that is gone. After the end of a namespace its guest sends
 * nothing, not even a FIN, so a client that waits for a response would wait forever.
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
 * Connects to a guest. Throws if there is no connection within `limitMs`: a guest whose vCPUs are
 * paused neither accepts nor refuses one.
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
      // This listener stays: an error without a listener would end the agent. The caller adds its
      // own.
      socket.on("error", (cause) => reject(new Error("the guest cannot be reached", { cause })));
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

/** Requests the port and reads only the line of the reply: the bytes after it are the guest's. */
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
