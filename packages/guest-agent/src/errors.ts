/** Errors of the in-sandbox API: status, stable code, and a message that says what to do (hopx-contract.md 1.7). Never a 5xx for what the caller did: SDKs would send it again. */
export class AgentError extends Error {
  readonly status: number;
  readonly code: string;
  readonly path: string | undefined;

  constructor(status: number, code: string, message: string, options: { path?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.status = status;
    this.code = code;
    this.path = options.path;
  }
}

export const invalidRequest = (message: string) => new AgentError(400, "INVALID_REQUEST", message);
export const missingParameter = (name: string) => new AgentError(400, "MISSING_PARAMETER", `"${name}" is required`);

/** A string field of a request body. */
export function stringField(body: Record<string, unknown>, name: string): string {
  const value = body[name];
  if (value === undefined || value === null) throw missingParameter(name);
  if (typeof value !== "string") throw invalidRequest(`"${name}" must be a string`);
  return value;
}

export function optionalString(body: Record<string, unknown>, name: string): string | undefined {
  return body[name] === undefined || body[name] === null ? undefined : stringField(body, name);
}

/** Seconds as the SDKs send them; `limit` is what they are cut to. */
export function secondsField(body: Record<string, unknown>, name: string, fallback: number, limit: number): number {
  const value = body[name] ?? fallback;
  if (typeof value !== "number" || !Number.isFinite(value) || value <= 0)
    throw invalidRequest(`"${name}" must be a positive number of seconds`);
  return Math.min(value, limit);
}

export function stringMap(body: Record<string, unknown>, name: string): Record<string, string> {
  const value = body[name] ?? {};
  if (typeof value !== "object" || Array.isArray(value)) throw invalidRequest(`"${name}" must be an object of strings`);
  for (const [key, entry] of Object.entries(value as Record<string, unknown>)) {
    if (typeof entry !== "string") throw invalidRequest(`"${name}.${key}" must be a string`);
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(key))
      throw invalidRequest(`"${name}" holds "${key}", which is no name of an environment variable`);
  }
  return value as Record<string, string>;
}
