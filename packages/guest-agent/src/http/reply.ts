import type { IncomingMessage, ServerResponse } from "node:http";
import { type Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { endAnswer } from "@torpor/service/end-answer";

/** A response that is not just a 200 with JSON. A stream is piped, at the pace of the reader. */
export class Reply {
  readonly status: number;
  readonly headers: Record<string, string | number>;
  readonly body: Readable | Buffer;

  constructor(status: number, headers: Record<string, string | number>, body: Readable | Buffer) {
    this.status = status;
    this.headers = headers;
    this.body = body;
  }
}

export const jsonReply = (
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
): Reply =>
  new Reply(
    status,
    { "content-type": "application/json", ...headers },
    Buffer.from(JSON.stringify(body ?? {})),
  );

export async function send(
  incoming: IncomingMessage,
  response: ServerResponse,
  requestId: string,
  reply: Reply,
): Promise<void> {
  const { status, headers, body } = reply;
  const isWithoutBody = incoming.method === "HEAD";
  if (response.destroyed || response.headersSent) {
    if (!Buffer.isBuffer(body)) body.destroy();
    return;
  }
  const length = Buffer.isBuffer(body) ? { "content-length": body.length } : {};
  response.writeHead(status, { "x-request-id": requestId, ...length, ...headers });
  if (Buffer.isBuffer(body)) return endAnswer(incoming, response, isWithoutBody ? undefined : body);
  if (isWithoutBody) {
    body.destroy();
    return endAnswer(incoming, response);
  }
  // If the reader left, or the file shrank, the connection ends before the promised length, so the
  // reader can detect it.
  await pipeline(body, response, { end: false }).then(
    () => endAnswer(incoming, response),
    () => response.destroy(),
  );
}
