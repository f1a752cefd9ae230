/** Errors of the edge, in the form that the SDKs read from a guest agent: `error` is a text. */
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from "node:http";
import type { Duplex } from "node:stream";
import { endAnswer } from "@torpor/service/end-answer";
import type { ApiError } from "../http/errors.ts";
import type { Opened } from "./preview-session.ts";

export function refusalBody(error: ApiError, requestId: string): object {
  const details = error.details === undefined ? {} : { details: error.details };
  return {
    error: error.message,
    message: error.message,
    code: error.code,
    request_id: requestId,
    timestamp: new Date().toISOString(),
    ...details,
  };
}

const bodyOf = (error: ApiError, requestId: string) =>
  Buffer.from(JSON.stringify(refusalBody(error, requestId)));

/** Responds to a request with the error; a response that has begun is cut off. */
export function refuse(
  incoming: IncomingMessage,
  response: ServerResponse,
  error: ApiError,
  requestId: string,
  headers: Record<string, string> = {},
): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const body = bodyOf(error, requestId);
  response.writeHead(error.status, {
    "content-type": "application/json",
    "content-length": body.length,
    "x-request-id": requestId,
    ...headers,
    ...error.headers,
  });
  endAnswer(incoming, response, body);
}

/**
 * Redirects a browser to the target of its link. The URL has the link in it: it is not cached, and
 * not sent as a referrer.
 */
export function redirect(
  incoming: IncomingMessage,
  response: ServerResponse,
  { path, cookie }: Opened,
  requestId: string,
): void {
  response.writeHead(303, {
    location: path,
    "content-length": 0,
    "x-request-id": requestId,
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    ...(cookie === undefined ? {} : { "set-cookie": cookie }),
  });
  endAnswer(incoming, response);
}

/** Responds to an upgrade with the error instead of 101. */
export function refuseUpgrade(
  socket: Duplex,
  error: ApiError,
  requestId: string,
  added: Record<string, string> = {},
): void {
  if (!socket.writable) return;
  const body = bodyOf(error, requestId);
  const headers = {
    ...added,
    connection: "close",
    "content-type": "application/json",
    "content-length": body.length,
    "x-request-id": requestId,
    ...error.headers,
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}`);
  socket.write(
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status] ?? "Refused"}\r\n${lines.join("\r\n")}\r\n\r\n`,
  );
  socket.end(body);
}
