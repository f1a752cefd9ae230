/** What a call can end with beside its answer. */

/**
 * The API refused the request. `message` tells what to do; docs/errors.md lists the codes.
 */
export class ApiRefusal extends Error {
  override readonly name = "ApiRefusal";
  readonly status: number;
  readonly code: string;
  /** By code: the fields that are wrong, what is allowed, what is missing. */
  readonly details: Record<string, unknown>;
  readonly requestId: string | undefined;
  /** Seconds after which the same request may succeed. */
  readonly retryAfterSeconds: number | undefined;

  constructor(status: number, body: unknown, headers: Headers) {
    const fields = isRecord(body) ? body : {};
    const { message, code, details, request_id: requestId } = fields;
    super(typeof message === "string" ? message : `the API answered with status ${status}`);
    this.status = status;
    this.code = typeof code === "string" ? code : "UNKNOWN";
    this.details = isRecord(details) ? details : {};
    this.requestId = typeof requestId === "string" ? requestId : undefined;
    const seconds = Number(headers.get("retry-after") ?? Number.NaN);
    this.retryAfterSeconds = Number.isFinite(seconds) ? seconds : undefined;
  }
}

/** No answer, or none that is the API's: whether the request was carried out is not known. */
export class NoAnswer extends Error {
  override readonly name = "NoAnswer";
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
