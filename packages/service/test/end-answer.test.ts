/** Real sockets, with bodies larger than their buffers: unread bytes are still in flight. */
import { once } from "node:events";
import { Agent, createServer, type IncomingMessage, request as httpRequest } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, expect, test } from "vitest";
import { discardRequest, endAnswer } from "../src/end-answer.ts";

const LARGE = Buffer.alloc(16 * 1024 ** 2, "x");
const REFUSAL = Buffer.from("the disk is full");

const server = createServer((incoming, response) => {
  response.writeHead(400, { "content-length": REFUSAL.length });
  if (incoming.url === "/waits") {
    void discardRequest(incoming).then(() => response.end(REFUSAL));
    return;
  }
  // Part of the body is read, as in an upload that fails in the middle.
  if (incoming.url === "/part") incoming.once("data", () => endAnswer(incoming, response, REFUSAL));
  else endAnswer(incoming, response, REFUSAL);
});
const port = () => (server.address() as AddressInfo).port;
beforeAll(async () => void (await once(server.listen(0, "127.0.0.1"), "listening")));
afterAll(() => {
  server.closeAllConnections();
  server.close();
});

test.each(["/", "/part", "/waits"])(
  "the next request on the connection is answered: %s",
  async (path) => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const sockets = new Set();
    for (const body of [LARGE, "x", LARGE]) {
      const request = httpRequest({ port: port(), host: "127.0.0.1", method: "POST", path, agent });
      request.once("socket", (socket) => sockets.add(socket));
      request.end(body);
      const [answer] = (await once(request, "response")) as [IncomingMessage];
      expect(await text(answer)).toBe(String(REFUSAL));
    }
    expect(sockets.size).toBe(1);
    agent.destroy();
  },
);

test.each(["/", "/part", "/waits"])(
  "a client that reads after it has sent everything gets an answer that closes: %s",
  async (path) => {
    const socket = connect(port(), "127.0.0.1");
    const head = `POST ${path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: ${LARGE.length}\r\n\r\n`;
    socket.write(head);
    await new Promise<void>((resolve, reject) => {
      socket.once("error", reject);
      socket.write(LARGE, (error) => (error ? reject(error) : resolve()));
    });
    expect(await text(socket)).toMatch(new RegExp(`^HTTP/1.1 400 [^]*${String(REFUSAL)}$`));
  },
);
