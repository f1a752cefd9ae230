/**
 * Ports of this machine for programs that are about to start: between the choice of a port and the
 * moment when the program listens on it, no other process may get the port.
 *
 * A chosen port is below those that Linux gives to outgoing connections and to `listen(0)` (from
 * 32768 on), so no process gets it by chance. A process claims a port first, by a socket with the
 * port's number for a name. The kernel gives a name to one process at a time, within the network
 * namespace of the port, and takes the name back when the process ends.
 */
import { randomInt } from "node:crypto";
import { createServer, type ListenOptions, type Server } from "node:net";

const FIRST_PORT = 20_000;
const END_OF_PORTS = 32_768;

export interface ClaimedPort extends Disposable {
  port: number;
}

/**
 * Claims a port of 127.0.0.1 that has no listener and no claim. The claim ends when it is disposed
 * of, or with the process.
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
 * Claims that port; undefined when it has a listener at `host`, or a claim. Throws when this
 * process may not listen on the port at all.
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
 * Claims a name (at most 90 bytes) on this machine, until the claim is disposed of or the process
 * ends; undefined when another process has the name.
 */
export async function tryClaimName(name: string): Promise<Disposable | undefined> {
  const server = await tryListen({ path: `\0torpor-${name}` });
  return server && { [Symbol.dispose]: () => server.close() };
}

/** Distinct ports for the programs of a test or of a fleet, claimed until this process ends. */
export async function claimPorts(count: number): Promise<number[]> {
  const claimed = await Promise.all(Array.from({ length: count }, claimPort));
  return claimed.map(({ port }) => port);
}

/** A server that does not keep the process alive; undefined when the address is taken. */
async function tryListen(address: ListenOptions): Promise<Server | undefined> {
  const server = createServer((socket) => socket.destroy()).unref();
  return await new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) =>
      error.code === "EADDRINUSE" ? resolve(undefined) : reject(error),
    );
    server.listen(address, () => resolve(server));
  });
}
