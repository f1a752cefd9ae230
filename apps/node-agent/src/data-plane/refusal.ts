/** Responses of the data plane itself, in the shape that the SDKs read from an agent. */
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from "node:http";
import type { Duplex } from "node:stream";
import { ERROR_CODES, type ErrorCode } from "@torpor/contracts";
import { endAnswer } from "@torpor/service/end-answer";

export interface Refusal {
  code: ErrorCode;
  message: string;
}

function bodyOf(incoming: IncomingMessage, { code, message }: Refusal): Buffer {
  const request_id = incoming.headers["x-request-id"];
  return Buffer.from(
    JSON.stringify({
      error: message,
      message,
      code,
      request_id,
      timestamp: new Date().toISOString(),
    }),
  );
}

export function refuse(
  incoming: IncomingMessage,
  response: ServerResponse,
  refusal: Refusal,
): void {
  if (response.headersSent) return void response.destroy();
  const body = bodyOf(incoming, refusal);
  response.writeHead(ERROR_CODES[refusal.code].status, {
    "content-type": "application/json",
    "content-length": body.length,
  });
  endAnswer(incoming, response, body);
}

export function refuseUpgrade(incoming: IncomingMessage, socket: Duplex, refusal: Refusal): void {
  const body = bodyOf(incoming, refusal);
  const { status } = ERROR_CODES[refusal.code];
  const lines = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? "Refused"}`,
    "connection: close",
    "content-type: application/json",
    `content-length: ${body.length}`,
  ];
  socket.write(`${lines.join("\r\n")}\r\n\r\n`);
  socket.end(body);
}
