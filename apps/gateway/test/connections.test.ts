/** An address that opens idle connections costs only itself. Real servers, real sockets. */
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { pino } from "pino";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ConnectionLimits } from "../src/http/connection-limits.ts";
import { createProxies } from "../src/http/proxies.ts";

const LIMIT = 3;
const sockets: Socket[] = [];
let server: Server;
let limits: ConnectionLimits;

const start = async (trusted = "") => {
  const log = pino({ level: "silent" });
  limits = new ConnectionLimits({ perAddress: LIMIT, proxies: createProxies(trusted), log });
  server = createServer((incoming, response) => {
    if (incoming.headers["x-good"] !== undefined) limits.know(incoming);
    if (incoming.url !== "/slow") response.end("ok");
  });
  limits.watch(server);
  await once(server.listen(0, "127.0.0.1"), "listening");
};

beforeEach(() => start());
afterEach(() => {
  for (const socket of sockets.splice(0)) socket.destroy();
  server.close();
});

/** Resolves when the server has accepted the connection. */
async function open(): Promise<Socket> {
  const taken = once(server, "connection");
  const socket = connect((server.address() as AddressInfo).port, "127.0.0.1");
  socket.on("error", () => {});
  sockets.push(socket);
  await Promise.all([taken, once(socket, "connect")]);
  return socket;
}

async function get(socket: Socket, path = "/", headers = ""): Promise<string> {
  const arrived = once(server, "request");
  socket.write(`GET ${path} HTTP/1.1\r\nhost: h\r\n${headers}\r\n`);
  await arrived;
  if (path === "/slow") return "";
  const [answer] = (await once(socket, "data")) as [Buffer];
  return answer.toString();
}

const isClosed = async (socket: Socket) => {
  if (!socket.closed) await once(socket.resume(), "close");
  return true;
};

test("CL2: over the limit the one without a request for longest goes, and the newest comes in", async () => {
  const [first, second, third] = [await open(), await open(), await open()];
  // Now the second has been without a request for longest.
  expect(await get(first)).toMatch(/200/);
  const fourth = await open();
  expect(await isClosed(second)).toBe(true);
  for (const socket of [first, third, fourth]) expect(await get(socket)).toMatch(/200/);
});

test("CL2: where all have a request under way, the new one goes", async () => {
  const busy = [await open(), await open(), await open()];
  for (const socket of busy) await get(socket, "/slow");
  expect(await isClosed(await open())).toBe(true);
  expect(busy.map(({ closed }) => closed)).toEqual([false, false, false]);
});

test("CL1: a connection with a good credential does not count, and is not closed for others", async () => {
  const known = await open();
  expect(await get(known, "/", "x-good: 1\r\n")).toMatch(/200/);
  const strangers = [await open(), await open(), await open()];
  const next = await open();
  expect(await isClosed(strangers[0] as Socket)).toBe(true);
  for (const socket of [known, next]) expect(await get(socket)).toMatch(/200/);
});

test("those that have ended do not count", async () => {
  for (let at = 0; at < 3 * LIMIT; at += 1) {
    const socket = await open();
    const [ended] = [once(socket, "close"), socket.end()];
    await ended;
  }
  const three = [await open(), await open(), await open()];
  for (const socket of three) expect(await get(socket)).toMatch(/200/);
});

test("CL3: a trusted proxy's do not count either", async () => {
  server.close();
  await start("127.0.0.0/8");
  const many = [];
  for (let at = 0; at < 3 * LIMIT; at += 1) many.push(await open());
  for (const socket of many) expect(await get(socket)).toMatch(/200/);
});
