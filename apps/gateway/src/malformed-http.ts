/** What HTTP itself refuses is answered as everything else is: with JSON and a request id. */
import { randomUUID } from "node:crypto";
import { STATUS_CODES } from "node:http";
import type { Socket } from "node:net";
import { MAX_HEADER_BYTES } from "@torpor/contracts";
import { ApiError, errorBody } from "./errors.ts";

/** For the client to read the answer in; what it still sends meanwhile is thrown away. */
const LINGER_MS = 2_000;

/** Answers, and closes the connection: nobody knows where the next request would begin. */
export function refuseMalformedHttp(
  cause: Error & { code?: string },
  socket: Socket,
  bodyOf: (error: ApiError, requestId: string) => object = errorBody,
): void {
  if (cause.code === "ECONNRESET" || !socket.writable) {
    socket.destroy();
    return;
  }
  const error = refusalOf(cause.code);
  const requestId = `req_${randomUUID().replaceAll("-", "")}`;
  const body = JSON.stringify(bodyOf(error, requestId));
  const head = [
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status] ?? "Refused"}`,
    "content-type: application/json; charset=utf-8",
    `content-length: ${Buffer.byteLength(body)}`,
    `x-request-id: ${requestId}`,
    "connection: close",
  ];
  socket.end(`${head.join("\r\n")}\r\n\r\n${body}`);
  // Closed with bytes unread, it would be reset, which can take the answer from the client.
  socket.resume();
  const limit = setTimeout(() => socket.destroy(), LINGER_MS);
  socket.once("close", () => clearTimeout(limit));
}

function refusalOf(code: string | undefined): ApiError {
  switch (code) {
    case "ERR_HTTP_REQUEST_TIMEOUT":
      return new ApiError("REQUEST_TIMEOUT", "The request did not arrive whole in time.");
    case "HPE_HEADER_OVERFLOW":
      return new ApiError(
        "HEADERS_TOO_LARGE",
        `The headers of the request are larger than ${MAX_HEADER_BYTES / 1024} KiB together.`,
        {
          details: { field: "headers", max_bytes: MAX_HEADER_BYTES },
        },
      );
    default:
      return new ApiError("INVALID_REQUEST", "This is not a valid HTTP/1.1 request.");
  }
}
