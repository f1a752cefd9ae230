/**
 * Parses requests from a stream of bytes, as the HTTP layer of v53.0 does: request line and headers
 * within 1,024 bytes, a body of at most 51,200 bytes by Content-Length, nothing else. A request
 * that does not parse gets a 400, and is dropped with the bytes that were read with it; the bytes
 * after it are read as a further request.
 */
const MAX_HEAD_BYTES = 1_024;
const MAX_BODY_BYTES = 51_200;
const HEAD_END = "\r\n\r\n";

export interface FakeRequest {
  method: "GET" | "PUT" | "PATCH";
  path: string;
  body: Buffer | undefined;
}

export type Parsed =
  | { kind: "request"; request: FakeRequest }
  | { kind: "continue" }
  | { kind: "invalid"; reason: string };

interface Head extends Omit<FakeRequest, "body"> {
  bodyBytes: number;
  expectsContinue: boolean;
}

export class HttpParser {
  private unread = Buffer.alloc(0);
  private head: Head | undefined;

  *feed(chunk: Buffer): Generator<Parsed> {
    this.unread = Buffer.concat([this.unread, chunk]);
    for (let next = this.next(); next !== undefined; next = this.next()) yield next;
  }

  private next(): Parsed | undefined {
    return this.head === undefined ? this.nextHead() : this.nextBody(this.head);
  }

  private nextHead(): Parsed | undefined {
    const end = this.unread.subarray(0, MAX_HEAD_BYTES).indexOf(HEAD_END);
    if (end < 0)
      return this.unread.length < MAX_HEAD_BYTES
        ? undefined
        : this.refuse("Invalid header. Reason: Header is too long.");
    const head = headOf(this.unread.toString("latin1", 0, end));
    if (typeof head === "string") return this.refuse(head);
    this.unread = this.unread.subarray(end + HEAD_END.length);
    this.head = head;
    return head.expectsContinue ? { kind: "continue" } : this.nextBody(head);
  }

  private nextBody({ method, path, bodyBytes }: Head): Parsed | undefined {
    if (this.unread.length < bodyBytes) return undefined;
    const body = bodyBytes === 0 ? undefined : Buffer.from(this.unread.subarray(0, bodyBytes));
    this.unread = this.unread.subarray(bodyBytes);
    this.head = undefined;
    return { kind: "request", request: { method, path, body } };
  }

  private refuse(reason: string): Parsed {
    this.unread = this.unread.subarray(Math.min(this.unread.length, MAX_HEAD_BYTES));
    return { kind: "invalid", reason };
  }
}

/** Head of a request; a string is the reason why it is invalid. */
function headOf(text: string): Head | string {
  const [requestLine = "", ...headerLines] = text.split("\r\n");
  const [method = "", uri = "", version = "", ...others] = requestLine.split(" ");
  if (version === "" || others.length > 0) return "Invalid request.";
  if (method !== "GET" && method !== "PUT" && method !== "PATCH")
    return "Invalid HTTP Method: Unsupported HTTP method.";
  if (version !== "HTTP/1.0" && version !== "HTTP/1.1")
    return "Invalid HTTP Version: Unsupported HTTP version.";
  const headers = new Map(
    headerLines.map((line) => [
      line.split(":")[0]?.trim().toLowerCase(),
      line.slice(line.indexOf(":") + 1).trim(),
    ]),
  );
  if (headers.has("transfer-encoding")) return "Invalid request.";
  const bodyBytes = Number(headers.get("content-length") ?? 0);
  if (!Number.isInteger(bodyBytes) || bodyBytes < 0)
    return "Invalid header. Reason: Invalid content length.";
  if (bodyBytes > MAX_BODY_BYTES)
    return `Request payload with size ${bodyBytes} is larger than the limit of ${MAX_BODY_BYTES} allowed by server.`;
  return {
    method,
    path: uri.replace(/^http:\/\/[^/]*/, ""),
    bodyBytes,
    expectsContinue: headers.get("expect") === "100-continue",
  };
}
