/** JSON from files and from other hosts, decoded by a schema. */
import { readFile } from "node:fs/promises";
import { jsonParser } from "@torpor/contracts";
import type { Static, TSchema } from "typebox";
import { isNotFound } from "./files.ts";

const SHOWN_PROBLEMS = 3;

/**
 * Returns a function that decodes a text. Its result is the value, or an error that names `what`
 * and the fields.
 */
export function jsonChecker<Schema extends TSchema>(
  schema: Schema,
): (what: string, text: string) => Static<Schema> | Error {
  const parse = jsonParser(schema);
  return (what, text) => {
    const parsed = parse(text);
    if (parsed.kind === "valid") return parsed.value;
    const problems = parsed.problems.slice(0, SHOWN_PROBLEMS).join("; ");
    return new Error(`${what} is not valid: ${problems}`, { cause: parsed.cause });
  };
}

/** The same, but the error is thrown. */
export function jsonDecoder<Schema extends TSchema>(
  schema: Schema,
): (what: string, text: string) => Static<Schema> {
  const check = jsonChecker(schema);
  return (what, text) => {
    const checked = check(what, text);
    if (checked instanceof Error) throw checked;
    return checked;
  };
}

/** Returns a function that reads a file; undefined if there is no such file. */
export function jsonReader<Schema extends TSchema>(
  schema: Schema,
): (path: string) => Promise<Static<Schema> | undefined> {
  const decode = jsonDecoder(schema);
  return async (path) => {
    const text = await readFile(path, "utf8").catch((error: unknown) => {
      if (isNotFound(error)) return undefined;
      throw error;
    });
    return text === undefined ? undefined : decode(path, text);
  };
}
