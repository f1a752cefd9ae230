import { createServer } from "node:net";

export interface HeldPort {
  port: number;
  release: () => Promise<void>;
}

/** A free port, kept from others until it is released. 0: any. */
export async function hold(port: number, purpose: string): Promise<HeldPort> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) => reject(new Error(`port ${port} of 127.0.0.1 is taken, and is needed for ${purpose}`, { cause })));
    server.listen(port, "127.0.0.1", resolve);
  });
  const address = server.address();
  return {
    port: typeof address === "object" && address !== null ? address.port : port,
    release: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

/** As many free ports, no two the same. */
export async function freePorts(count: number, purpose: string): Promise<number[]> {
  const held = await Promise.all(Array.from({ length: count }, () => hold(0, purpose)));
  await Promise.all(held.map(({ release }) => release()));
  return held.map(({ port }) => port);
}
