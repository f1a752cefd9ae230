import { invalidRequest } from "./errors.ts";

const NAME = /^[^\p{Cc}]{1,128}$/u;

/**
 * Throws the 400 for what the schema cannot check: names that do not print, and values of another
 * type.
 */
export function checkMetadata(
  metadata: Record<string, unknown>,
  isValue: (value: unknown) => boolean,
): void {
  const bad = Object.entries(metadata).find(
    ([name, value]) => !NAME.test(name) || !isValue(value),
  )?.[0];
  if (bad === undefined) return;
  const field = `metadata.${JSON.stringify(bad).slice(1, -1)}`;
  throw invalidRequest([
    { field, message: "must have a name of 1 to 128 printable characters, and be a string" },
  ]);
}
