import { invalidRequest } from "./errors.ts";

const NAME = /^[^\p{Cc}]{1,128}$/u;

/**
 * Throws the 400 of what the schema cannot judge: names that do not print, and what hides in a
 * record that is not of its type.
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
