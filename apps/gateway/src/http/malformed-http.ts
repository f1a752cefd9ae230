/** Refuses malformed HTTP in the form of every other refusal: JSON with a request id. */
import { randomUUID } from "node:crypto";
import { STATUS_CODES } from "node:http";
import type { Socket } from "node:net";
import { MAX_HEADER_BYTES } from "@torpor/contracts";
import { ApiError, errorBody } from "./errors.ts";

/** Time for the client to read the response; what it still sends is discarded. */
const LINGER_MS = 2_000;

/** Responds, and closes the connection: the start of the next request cannot be known. */
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
  // A socket that is closed with unread bytes is reset, and the client may lose the response.
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
