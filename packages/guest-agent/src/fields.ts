/** Readers of single fields of a JSON body. Each throws a 400 that names the field. */
import { findEnvProblem, MAX_PROGRAM_STRING_BYTES } from "@torpor/contracts/env-vars";
import { AgentError, invalidRequest, missingParameter } from "./errors.ts";

export type Body = Record<string, unknown>;

/**
 * All arguments of a program. Together with two maps of variables, they fit into the 2 MiB of
 * Linux.
 */
const MAX_ARGUMENTS_BYTES = 1024 ** 2;
/** Linux counts a pointer and a zero byte for each argument. */
const ARGUMENT_OVERHEAD_BYTES = 9;
/** A timer counts milliseconds in 31 bits; this is 23 days. */
const MAX_TIME_LIMIT_S = 2_000_000;

export function stringField(body: Body, name: string): string {
  const value = body[name];
  if (value === undefined || value === null) throw missingParameter(name);
  if (typeof value !== "string") throw invalidRequest(`"${name}" must be a string`);
  return value;
}

export function optionalString(body: Body, name: string): string | undefined {
  return body[name] === undefined || body[name] === null ? undefined : stringField(body, name);
}

/** A string for the start of a program. Linux limits its length, and a NUL would end it. */
export function systemString(body: Body, name: string): string {
  return programString(stringField(body, name), name);
}

function programString(value: string, name: string): string {
  const bytes = Buffer.byteLength(value);
  if (bytes > MAX_PROGRAM_STRING_BYTES)
    throw invalidRequest(
      `"${name}" must be at most ${MAX_PROGRAM_STRING_BYTES} bytes, which is all that Linux gives a program, and is ${bytes}`,
    );
  return systemText(value, name);
}

/**
 * A text for system calls: a NUL would end it, and half a surrogate pair would become another text.
 */
export function systemText(value: string, name: string): string {
  if (value.includes("\0")) throw invalidRequest(`"${name}" holds a NUL character`);
  if (/\p{Surrogate}/u.test(value)) throw invalidRequest(`"${name}" holds half a surrogate pair`);
  return value;
}

export function optionalBoolean(body: Body, name: string): boolean | undefined {
  const value = body[name] ?? undefined;
  if (value !== undefined && typeof value !== "boolean")
    throw invalidRequest(`"${name}" must be true or false`);
  return value;
}

/** Seconds as the SDKs send them, cut to `limit`. */
export function secondsField(body: Body, name: string, fallback: number, limit: number): number {
  const value = body[name] ?? fallback;
  if (typeof value !== "number" || !Number.isFinite(value) || value <= 0)
    throw invalidRequest(`"${name}" must be a positive number of seconds`);
  return Math.min(value, limit);
}

/**
 * A time limit as the SDKs send it: 0 is no limit, returned as undefined. A value beyond the range
 * of a timer is refused.
 */
export function timeLimitField(
  body: Body,
  name: string,
  fallbackS: number | undefined,
): number | undefined {
  const value = body[name] ?? fallbackS ?? 0;
  if (typeof value !== "number" || !Number.isFinite(value) || value < 0 || value > MAX_TIME_LIMIT_S)
    throw invalidRequest(
      `"${name}" must be a number of seconds from 0, which is no limit, to ${MAX_TIME_LIMIT_S}`,
    );
  return value === 0 ? undefined : value;
}

export function integerField(
  body: Body,
  name: string,
  range: { from: number; to: number },
): number {
  const value = body[name];
  if (value === undefined || value === null) throw missingParameter(name);
  if (
    typeof value !== "number" ||
    !Number.isInteger(value) ||
    value < range.from ||
    value > range.to
  )
    throw invalidRequest(`"${name}" must be a whole number from ${range.from} to ${range.to}`);
  return value;
}

/** Names and values of environment variables. */
export function variablesField(body: Body, name: string): Record<string, string> {
  const value = stringMap(body, name);
  const problem = envProblemIn(value, name);
  if (problem !== undefined) throw invalidRequest(problem);
  return value;
}

/** The message of a 400, if no program could be started with the variables. */
export function envProblemIn(variables: Record<string, string>, name: string): string | undefined {
  const problem = findEnvProblem(variables);
  if (problem === undefined) return undefined;
  return `${JSON.stringify(problem.name === undefined ? name : `${name}.${problem.name}`)} ${problem.message}`;
}

export function stringMap(body: Body, name: string): Record<string, string> {
  const value = body[name] ?? {};
  if (typeof value !== "object" || Array.isArray(value))
    throw invalidRequest(`"${name}" must be an object of strings`);
  for (const [key, entry] of Object.entries(value as Body))
    if (typeof entry !== "string") throw invalidRequest(`"${name}.${key}" must be a string`);
  return value as Record<string, string>;
}

export function optionalStrings(body: Body, name: string): string[] | undefined {
  const value = body[name] ?? undefined;
  if (value === undefined) return undefined;
  if (!Array.isArray(value) || !value.every((entry) => typeof entry === "string"))
    throw invalidRequest(`"${name}" must be an array of strings`);
  const bytes = value.reduce(
    (sum, entry) => sum + Buffer.byteLength(entry) + ARGUMENT_OVERHEAD_BYTES,
    0,
  );
  if (bytes > MAX_ARGUMENTS_BYTES)
    throw invalidRequest(
      `"${name}" must be at most ${MAX_ARGUMENTS_BYTES} bytes together, and is ${bytes}`,
    );
  return value.map((entry: string, at) => programString(entry, `${name}[${at}]`));
}

/** Parses a JSON text that must be an object. */
export function parseObject(text: string): Body {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new AgentError(400, "INVALID_JSON", "the body is not valid JSON", { cause });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw invalidRequest("the body must be a JSON object");
  return value as Body;
}
