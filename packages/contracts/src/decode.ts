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

/** A value with its type, or what is wrong with the text: each problem names its field. */
export type ParsedJson<T> =
  | { kind: "valid"; value: T }
  | { kind: "invalid"; problems: string[]; cause?: unknown };

/** Parses JSON from outside. Unknown fields pass, because a newer writer may add optional ones. */
export function jsonParser<Schema extends TSchema>(
  schema: Schema,
): (text: string) => ParsedJson<Static<Schema>> {
  const compiled = Compile(schema);
  return (text) => {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (cause) {
      return { kind: "invalid", problems: ["not JSON"], cause };
    }
    if (compiled.Check(value)) return { kind: "valid", value: value as Static<Schema> };
    const problems = compiled
      .Errors(value)
      .map((error) => `${error.instancePath || "(message)"} ${error.message}`);
    return { kind: "invalid", problems };
  };
}

export type Decoder<T> = (subject: string, bytes: Uint8Array) => T;

/** The only function that turns bytes into a typed message. Throws InvalidMessageError. */
export function decoder<Schema extends TSchema>(schema: Schema): Decoder<Static<Schema>> {
  const parse = jsonParser(schema);
  return (subject, bytes) => {
    const parsed = parse(textOf(subject, bytes));
    if (parsed.kind === "valid") return parsed.value;
    throw new InvalidMessageError(subject, parsed.problems, { cause: parsed.cause });
  };
}

function textOf(subject: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new InvalidMessageError(subject, ["not UTF-8"], { cause });
  }
}
