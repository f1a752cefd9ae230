/** The connections that the edge accepts, by their local address. Real sockets. */
import { once } from "node:events";
import { createServer as createListener, type AddressInfo, connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { pino } from "pino";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ConnectionLimits } from "../src/http/connection-limits.ts";
import { createEdgeServer, type EdgeServer } from "../src/edge/server.ts";
import { createProxies } from "../src/http/proxies.ts";

const OUTSIDE = "127.0.0.9";
const sockets: Socket[] = [];
const stack: Disposable[] = [];
let edge: EdgeServer;
let read: string[];

beforeEach(async () => {
  read = [];
  const proxies = createProxies("");
  const log = pino({ level: "silent" });
  edge = createEdgeServer(
    {
      request: async (incoming, response) => {
        const { localAddress, localPort } = incoming.socket;
        read.push(String(localAddress));
        if (incoming.url === "/slow") await sleep(200);
        response.end(`${localAddress}:${localPort}`);
      },
      upgrade: async () => {},
    },
    {
      proxies,
      connections: new ConnectionLimits({ perAddress: 4, proxies, log }),
      maxConnections: 6,
      maxPerAddress: 2,
      serves: (address) => address !== OUTSIDE,
    },
  );
  await once(edge.server.listen(0, "0.0.0.0"), "listening");
});
afterEach(() => {
  for (const socket of sockets.splice(0)) socket.destroy();
  edge.shut();
  for (const disposable of stack.splice(0)) disposable[Symbol.dispose]();
});

const edgePort = () => (edge.server.address() as AddressInfo).port;

async function open(host: string, port = edgePort()): Promise<Socket> {
  const socket = connect(port, host);
  socket.on("error", () => {});
  sockets.push(socket);
  await once(socket, "connect");
  return socket;
}

/** The body of the response; empty when the connection was closed instead. */
async function get(socket: Socket, path = "/"): Promise<string> {
  socket.write(`GET ${path} HTTP/1.1\r\nhost: h\r\n\r\n`);
  const answered = once(socket, "data").then(([data]) => String(data).split("\r\n\r\n")[1] ?? "");
  return await Promise.race([answered, once(socket, "close").then(() => "")]);
}

test("LB1: one listener serves every address, and each request knows the one that it came to", async () => {
  for (const host of ["127.64.0.1", "127.99.1.2", "127.0.0.1"])
    expect(await get(await open(host))).toBe(`${host}:${edgePort()}`);
});

test("LB2: what came to an address that is not served is closed, nothing of it read, and nobody else's place taken", async () => {
  const idle = [await open("127.64.0.1"), await open("127.64.0.2")];
  for (let times = 0; times < 8; times += 1) {
    const stranger = await open(OUTSIDE);
    expect(await get(stranger)).toBe("");
  }
  expect(read).toEqual([]);
  for (const socket of idle) expect(await get(socket)).toMatch(/^127\.64/);
});

test("one address has no more than its share, and takes none from another", async () => {
  const first = [await open("127.64.0.1"), await open("127.64.0.1")];
  expect(await get(await open("127.64.0.1"))).toBe("");
  expect(await get(await open("127.64.0.2"))).toMatch(/^127\.64\.0\.2/);
  // A connection that has ended makes room.
  first[0]?.destroy();
  await once(first[0] as Socket, "close");
  await expect.poll(async () => await get(await open("127.64.0.1"))).toMatch(/^127\.64\.0\.1/);
});

test("LB4: a connection that another listener accepted is served with its own address, and waited for", async () => {
  const listener = createListener({ allowHalfOpen: true }, edge.take);
  await once(listener.listen(0, "127.64.0.3"), "listening");
  stack.push({ [Symbol.dispose]: () => listener.close() });
  const { port } = listener.address() as AddressInfo;
  const answered = get(await open("127.64.0.3", port), "/slow");
  await expect.poll(() => read).toEqual(["127.64.0.3"]);
  const drained = edge.drain();
  let isDrained = false;
  void drained.then(() => (isDrained = true));
  await sleep(0);
  expect(isDrained).toBe(false);
  expect(await answered).toBe(`127.64.0.3:${port}`);
  await drained;
});
