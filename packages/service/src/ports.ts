/**
 * Ports of this machine for programs that are about to start: between the choice of a port and the
 * moment when the program listens on it, nobody else may get it.
 *
 * A chosen port lies below those that Linux gives to outgoing connections and to `listen(0)` (from
 * 32768 on), so nobody gets it by chance. Whoever chooses one claims it first, by a socket with the
 * port's number for a name: the kernel gives a name to one process at a time, in the network
 * namespace that the port is in too, and takes it back when the process ends.
 */
import { randomInt } from "node:crypto";
import { createServer, type ListenOptions, type Server } from "node:net";

const FIRST_PORT = 20_000;
const END_OF_PORTS = 32_768;

export interface ClaimedPort extends Disposable {
  port: number;
}

/**
 * A port that nobody listens on and nobody has claimed, on 127.0.0.1; this process's until it is
 * disposed, or the process ends.
 */
export async function claimPort(): Promise<ClaimedPort> {
  const count = END_OF_PORTS - FIRST_PORT;
  const start = randomInt(count);
  for (let step = 0; step < count; step += 1) {
    const claimed = await tryClaimPort(FIRST_PORT + ((start + step) % count));
    if (claimed !== undefined) return claimed;
  }
  throw new Error(`every port of 127.0.0.1 from ${FIRST_PORT} to ${END_OF_PORTS - 1} is taken`);
}

/**
 * That port; undefined when somebody listens on it at `host`, or has claimed it. Throws when this
 * process may not listen on it at all.
 */
export async function tryClaimPort(
  port: number,
  host = "127.0.0.1",
): Promise<ClaimedPort | undefined> {
  const claim = await tryClaimName(`port-${port}`);
  if (claim === undefined) return undefined;
  const dispose = () => claim[Symbol.dispose]();
  const probe = await tryListen({ host, port }).catch((error: unknown) => {
    dispose();
    throw error;
  });
  if (probe === undefined) {
    dispose();
    return undefined;
  }
  await new Promise<void>((resolve) => probe.close(() => resolve()));
  return { port, [Symbol.dispose]: dispose };
}

/**
 * A name that one process of this machine has at a time, at most 90 bytes, until it is disposed or
 * the process ends; undefined when another has it.
 */
export async function tryClaimName(name: string): Promise<Disposable | undefined> {
  const server = await tryListen({ path: `\0torpor-${name}` });
  return server && { [Symbol.dispose]: () => server.close() };
}

/**
 * Ports for the programs of a test or of a fleet, no two the same: this process's until it ends.
 */
export async function claimPorts(count: number): Promise<number[]> {
  const claimed = await Promise.all(Array.from({ length: count }, claimPort));
  return claimed.map(({ port }) => port);
}

/** A server that does not keep the process from ending; undefined when the address is taken. */
async function tryListen(address: ListenOptions): Promise<Server | undefined> {
  const server = createServer((socket) => socket.destroy()).unref();
  return await new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) =>
      error.code === "EADDRINUSE" ? resolve(undefined) : reject(error),
    );
    server.listen(address, () => resolve(server));
  });
}
