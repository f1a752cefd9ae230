/**
 * `application.ts PORT`: the server that is reached directly and through the edge. It responds with
 * a few bytes, sends and takes endless streams, and echoes the data of an upgraded connection.
 */
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import type { Writable } from "node:stream";
import { ECHO_PATH, STREAM_PATH } from "./paths.ts";

const CHUNK = Buffer.alloc(64 * 1_024, "x");
/** Constant of RFC 6455: with the client's key, it makes the server's response. */
const WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const server = createServer((incoming, response) => {
  if (incoming.url === STREAM_PATH && incoming.method === "GET") return sendWithoutEnd(response);
  if (incoming.url === STREAM_PATH) return void incoming.resume().once("end", () => response.end());
  response.setHeader("content-type", "application/json");
  response.end('{"status":"healthy"}');
});

server.on("upgrade", (incoming, socket) => {
  socket.on("error", () => socket.destroy());
  if (incoming.url !== ECHO_PATH) return void socket.destroy();
  const key = incoming.headers["sec-websocket-key"] ?? "";
  const accept = createHash("sha1").update(`${key}${WEBSOCKET_GUID}`).digest("base64");
  const head = ["HTTP/1.1 101 Switching Protocols", "upgrade: websocket", "connection: Upgrade"];
  socket.write([...head, `sec-websocket-accept: ${accept}`, "", ""].join("\r\n"));
  socket.pipe(socket);
});

/** Sends until the client leaves. */
function sendWithoutEnd(response: Writable): void {
  const send = () => {
    while (!response.destroyed && response.write(CHUNK));
  };
  response.on("drain", send);
  send();
}

const [port = ""] = process.argv.slice(2);
server.listen(Number(port), "127.0.0.1");
