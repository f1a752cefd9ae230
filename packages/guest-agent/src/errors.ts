/**
 * Errors of the in-sandbox API: status, stable code, and a message that names the remedy
 * (docs/sandbox-api.md). A caller's mistake is never a 5xx, which SDKs would send again.
 */
export class AgentError extends Error {
  readonly status: number;
  readonly code: string;
  readonly path: string | undefined;
  readonly headers: Record<string, string>;

  constructor(
    status: number,
    code: string,
    message: string,
    options: { path?: string; cause?: unknown; headers?: Record<string, string> } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.status = status;
    this.code = code;
    this.path = options.path;
    this.headers = options.headers ?? {};
  }
}

export const invalidRequest = (message: string) => new AgentError(400, "INVALID_REQUEST", message);
export const missingParameter = (name: string) =>
  new AgentError(400, "MISSING_PARAMETER", `"${name}" is required`);
export const tooMany = (message: string) => new AgentError(429, "RESOURCE_LIMIT_ERROR", message);

export interface ErrorBody {
  error: string;
  message: string;
  code: string;
  path?: string;
  request_id: string;
  timestamp: string;
}

/** Has both `error` and `message`: the SDKs read different ones. */
export function errorBody(error: AgentError, requestId: string): ErrorBody {
  return {
    error: error.message,
    message: error.message,
    code: error.code,
    ...(error.path === undefined ? {} : { path: error.path }),
    request_id: requestId,
    timestamp: new Date().toISOString(),
  };
}

/** Hides an unexpected error from the caller; its details go to the agent's log. */
export function asAgentError(error: unknown): AgentError {
  if (error instanceof AgentError) return error;
  process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`);
  return new AgentError(500, "INTERNAL_ERROR", "the agent failed; see its log");
}
