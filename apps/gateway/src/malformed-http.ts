import { randomUUID } from "node:crypto";
import type { Socket } from "node:net";
import { ApiError, errorBody } from "./errors.ts";

/** What is no HTTP request gets the same error body as everything else, and its connection is closed. */
export function refuseMalformedHttp(cause: Error & { code?: string }, socket: Socket): void {
  if (cause.code === "ECONNRESET" || !socket.writable) {
    socket.destroy();
    return;
  }
  const tooSlow = cause.code === "ERR_HTTP_REQUEST_TIMEOUT";
  const error = tooSlow
    ? new ApiError("REQUEST_TIMEOUT", "The request did not arrive whole in time.")
    : new ApiError("INVALID_REQUEST", "This is not a valid HTTP/1.1 request.");
  const requestId = `req_${randomUUID().replaceAll("-", "")}`;
  const body = JSON.stringify(errorBody(error, requestId));
  const head = [
    `HTTP/1.1 ${error.status} ${tooSlow ? "Request Timeout" : "Bad Request"}`,
    "content-type: application/json; charset=utf-8",
    `content-length: ${Buffer.byteLength(body)}`,
    `x-request-id: ${requestId}`,
    "connection: close",
  ];
  socket.end(`${head.join("\r\n")}\r\n\r\n${body}`);
}
