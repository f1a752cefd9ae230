/**
 * Every error that the control plane and the edge return. Their codes: ERROR_CODES in contracts.
 *
 * The SDKs decide by text and status, so:
 * E1  Only an outage, an internal error, and an operation that has not ended are a 5xx: the SDKs
 *     send the request again, body and all.
 * E2  Only the 404 of a sandbox contains "not found"; elsewhere the JS SDK would take it for a
 *     missing file.
 * E3  Only the messages of RESOURCE_LIMIT_ERROR and QUOTA_EXCEEDED contain "limit" and "quota":
 *     ComputeSDK takes them for an exhausted quota, the Python SDK a 403 with "limit".
 */
import {
  type ApiErrorBody,
  ERROR_CODES,
  type ErrorCode,
  type OperationId,
  type SandboxId,
} from "@torpor/contracts";

interface Extra {
  details?: Record<string, unknown>;
  headers?: Record<string, string>;
  cause?: unknown;
}

/** An error whose message is for the client, and sent as it is. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly status: number;
  readonly code: string;
  readonly details: Record<string, unknown> | undefined;
  readonly headers: Record<string, string>;

  constructor(
    code: ErrorCode | { code: string; status: number },
    message: string,
    extra: Extra = {},
  ) {
    super(message, extra.cause === undefined ? undefined : { cause: extra.cause });
    this.code = typeof code === "string" ? code : code.code;
    this.status = typeof code === "string" ? ERROR_CODES[code].status : code.status;
    this.details = extra.details;
    this.headers = extra.headers ?? {};
  }
}

/** The ApiError inside an error: a query wraps what it fails with. */
export function apiErrorIn(error: unknown): ApiError | undefined {
  for (let current = error; current instanceof Error; current = current.cause)
    if (current instanceof ApiError) return current;
  return undefined;
}

/** The body that both the JS SDK (top level) and the Python SDK (`error`) can read. */
export function errorBody(
  error: Pick<ApiError, "code" | "message" | "details">,
  requestId: string,
): ApiErrorBody {
  const details = error.details === undefined ? {} : { details: error.details };
  const shared = { message: error.message, code: error.code, request_id: requestId, ...details };
  return { error: shared, ...shared };
}

/** `fields`: for each wrong field, its path within the request and the reason. */
export function invalidRequest(
  fields: { field: string; message: string }[],
  code: ErrorCode = "INVALID_REQUEST",
): ApiError {
  return new ApiError(code, fields.map(({ field, message }) => `${field} ${message}`).join("; "), {
    details: { fields },
  });
}

export const sandboxNotFound = (id: string) =>
  new ApiError(
    "SANDBOX_NOT_FOUND",
    `Sandbox '${clip(id)}' not found: it was never created here, was deleted, or has expired.`,
    {
      details: { sandbox_id: clip(id) },
    },
  );

export const unknownTemplate = (asked: string, known: string[]) =>
  new ApiError(
    "TEMPLATE_NOT_FOUND",
    `Unknown template '${clip(asked)}'. Known templates: ${known.length === 0 ? "none (an operator makes them: ./torpor template create)" : known.join(", ")}.`,
    {
      details: { template: clip(asked), known_templates: known },
    },
  );

/** For SDK calls that would build templates. */
export const templatesAreNotBuilt = () =>
  new ApiError(
    "FORBIDDEN",
    "Templates are not built through this API: an operator makes them of images that are installed on the hosts (POST /v1/templates).",
  );

/** An operation, host or path that does not exist. */
export const unknownResource = (what: string, asked: string, hint = "") =>
  new ApiError(
    "RESOURCE_NOT_FOUND",
    `Unknown ${what} '${clip(asked)}'.${hint === "" ? "" : ` ${hint}`}`,
  );

export const noApiKey = () =>
  new ApiError(
    "AUTHENTICATION_REQUIRED",
    "Send the API key in the header X-API-Key, or as Authorization: Bearer <key>.",
  );
export const wrongApiKey = () =>
  new ApiError("INVALID_TOKEN", "The API key is unknown, was revoked, or has expired.");

export const keyReused = () =>
  new ApiError(
    "IDEMPOTENCY_KEY_REUSED",
    "This Idempotency-Key was sent before with another request. Use a new key for a new request.",
    {
      details: { field: "Idempotency-Key" },
    },
  );

/**
 * For the repeat of a request whose sandbox is gone: the client would take the first response for
 * the present state.
 */
export const sandboxDeleted = (
  sandboxId: SandboxId,
  operation: { id: OperationId; kind: string },
) =>
  new ApiError(
    "SANDBOX_DELETED",
    `The ${operation.kind} succeeded, and sandbox ${sandboxId} has been deleted since. For another one, send a create with a new Idempotency-Key; /v1/sandboxes/${sandboxId}/events says when and why this one was deleted.`,
    { details: { sandbox_id: sandboxId, operation_id: operation.id } },
  );

export const operationInProgress = (operationId: OperationId, kind: string, waitedMs: number) =>
  new ApiError(
    "OPERATION_IN_PROGRESS",
    `The ${kind} has not ended after ${Math.round(waitedMs / 1000)} s and goes on. Send the request again to wait for it, or look at /v1/operations/${operationId}.`,
    { details: { operation_id: operationId }, headers: { "retry-after": "1" } },
  );

export const replicationInProgress = (sandboxId: SandboxId, waitedMs: number) =>
  new ApiError(
    "OPERATION_IN_PROGRESS",
    `The sandbox is paused. Its snapshot was not in the store after ${Math.round(waitedMs / 1000)} s and is still being copied. Send the request again to wait for it, or look at durability in /v1/sandboxes/${sandboxId}.`,
    { headers: { "retry-after": "1" } },
  );

/** The process was asked to stop while the request waited; another gateway takes the repeat. */
export const stopping = () =>
  new ApiError("SERVICE_UNAVAILABLE", "This gateway is being stopped. Send the request again.", {
    headers: { "retry-after": "1" },
  });

export const serviceUnavailable = (cause: unknown) =>
  new ApiError(
    "SERVICE_UNAVAILABLE",
    "The control plane cannot reach its database right now. Nothing was changed that you would have to undo; try again in a moment.",
    {
      headers: { "retry-after": "1" },
      cause,
    },
  );

export const schedulersSilent = (cause: unknown) =>
  new ApiError(
    "SERVICE_UNAVAILABLE",
    "No scheduler answers right now. Nothing was changed; try again in a moment.",
    {
      headers: { "retry-after": "1" },
      cause,
    },
  );

export const internalError = (cause: unknown) =>
  new ApiError(
    "INTERNAL_ERROR",
    "The control plane made a mistake. It was logged under this request id.",
    { cause },
  );

/**
 * Over the rate, or too many at once. Only the code contains "limit" (E3). The Python SDK waits for
 * `retry_after_seconds`.
 */
export const tooManyRequests = (
  message: string,
  retryAfterSeconds: number,
  { headers, details }: Pick<Extra, "headers" | "details"> = {},
) =>
  new ApiError("RATE_LIMIT_EXCEEDED", message, {
    details: { ...details, retry_after_seconds: retryAfterSeconds },
    headers: { ...headers, "retry-after": String(retryAfterSeconds) },
  });

/** A quota is used up, and waiting does not free it. */
export const quotaExceeded = (message: string, extra: Pick<Extra, "headers" | "details">) =>
  new ApiError("QUOTA_EXCEEDED", message, extra);

/** A 503, because the request had no effect: it is safe to send again. */
export const hostUnreachable = (cause: unknown) =>
  new ApiError(
    "SERVICE_UNAVAILABLE",
    "The host of the sandbox cannot be reached right now. Nothing was carried out; try again in a moment.",
    {
      headers: { "retry-after": "1" },
      cause,
    },
  );

/** No 5xx: the request may have had an effect, and the SDKs would send it again. */
export const connectionLost = (cause: unknown) =>
  new ApiError(
    "CONNECTION_LOST",
    "The connection to the sandbox broke before it answered. What was asked for may have been carried out; look before you send it again.",
    { cause },
  );

export const noSandboxToken = () =>
  new ApiError(
    "AUTHENTICATION_REQUIRED",
    "Send the sandbox's token as Authorization: Bearer <auth_token>, or its owner's API key in the header X-API-Key. For a browser, ask for a link: POST /v1/sandboxes/{id}/preview-links.",
  );
export const wrongSandboxToken = () =>
  new ApiError("INVALID_TOKEN", "The token was not issued for this sandbox.");
/** A text for people: a browser shows it. */
export const wrongPreviewLink = () =>
  new ApiError(
    "INVALID_TOKEN",
    "This link has expired, or is not for this preview. Ask whoever gave it to you for a new one.",
  );

/** Cuts a client's text that a message repeats. */
function clip(text: string): string {
  return text.length <= 64 ? text : `${text.slice(0, 64)}…`;
}
