import type { Static, TSchema } from "typebox";
import { Compile } from "typebox/compile";

/** A message that does not match its schema. A retry cannot help, so the bus rejects it. */
export class InvalidMessageError extends Error {
  override readonly name = "InvalidMessageError";
  readonly subject: string;

  constructor(subject: string, problems: string[], options?: { cause?: unknown }) {
    super(
      `message on ${subject} does not match its schema: ${problems.slice(0, 5).join("; ")}`,
      options,
    );
    this.subject = subject;
  }
}

export type Decoder<T> = (subject: string, bytes: Uint8Array) => T;

/**
 * The only function that turns bytes into a typed message. Unknown fields pass, because a newer
 * writer may add optional ones. Throws InvalidMessageError.
 */
export function decoder<Schema extends TSchema>(schema: Schema): Decoder<Static<Schema>> {
  const compiled = Compile(schema);
  return (subject, bytes) => {
    let value: unknown;
    try {
      value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    } catch (cause) {
      throw new InvalidMessageError(subject, ["not JSON"], { cause });
    }
    if (!compiled.Check(value)) {
      throw new InvalidMessageError(
        subject,
        compiled
          .Errors(value)
          .map((error) => `${error.instancePath || "(message)"} ${error.message}`),
      );
    }
    return value as Static<Schema>;
  };
}
