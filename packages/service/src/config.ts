import { readFileSync } from "node:fs";
import { IsInteger, type Static, type TObject } from "typebox";
import { Compile } from "typebox/compile";
import { Convert, Default } from "typebox/value";

/** All problems of a configuration at once; values are never echoed. */
export class ConfigurationError extends Error {
  override readonly name = "ConfigurationError";
}

/**
 * Converts texts to the types in `schema`. A text that is not a whole number stays a text, so that
 * it is refused: Convert would cut 1.5 down to 1.
 */
export function convertTexts(schema: TObject, texts: Readonly<Record<string, unknown>>): object {
  const value: object = Convert(schema, structuredClone(texts)) as object;
  const isFraction = (text: unknown) => typeof text === "string" && /[^\d+-]/.test(text);
  const fractions = Object.entries(schema.properties).filter(
    ([name, property]) => IsInteger(property) && isFraction(texts[name]),
  );
  return { ...value, ...Object.fromEntries(fractions.map(([name]) => [name, texts[name]])) };
}

/**
 * Reads the fields of `schema` from the environment: converts numbers and booleans, and fills in
 * defaults. Throws ConfigurationError.
 */
export function loadConfig<Schema extends TObject>(
  schema: Schema,
  env: NodeJS.ProcessEnv,
): Static<Schema> {
  const named = Object.fromEntries(
    Object.keys(schema.properties).flatMap((name) =>
      env[name] === undefined ? [] : [[name, env[name]]],
    ),
  );
  const value: unknown = Default(schema, convertTexts(schema, named));
  const compiled = Compile(schema);
  if (compiled.Check(value)) return value;
  throw new ConfigurationError(
    `invalid configuration: ${[...new Set(compiled.Errors(value).flatMap(problemsOf))].join("; ")}`,
  );
}

function problemsOf(error: { instancePath: string; message: string; params: object }): string[] {
  const { requiredProperties, allowedValues } = error.params as {
    requiredProperties?: string[];
    allowedValues?: unknown[];
  };
  if (requiredProperties !== undefined)
    return requiredProperties.map((name) => `${name} is not set`);
  if (allowedValues !== undefined)
    return [`${error.instancePath.slice(1)} must be one of ${allowedValues.join(", ")}`];
  return [`${error.instancePath.slice(1)} ${error.message}`];
}

/** Returns the configuration, or ends the process with one line that names every problem. */
export function configured<T>(load: () => T): T {
  try {
    return load();
  } catch (error) {
    if (!(error instanceof ConfigurationError)) throw error;
    process.stderr.write(`${error.message}\n`);
    process.exit(1);
  }
}

/** A secret from a file, without the newline that editors add at the end. */
export function readSecret(path: string): string {
  const secret = readOrExplain(path).trim();
  if (secret === "") throw new ConfigurationError(`the secret file ${path} is empty`);
  return secret;
}

/** Secrets from several files; the paths are separated by commas. */
export function readSecrets(paths: string): string[] {
  const named = paths.split(",").map((path) => path.trim());
  return named.filter((path) => path !== "").map(readSecret);
}

function readOrExplain(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new ConfigurationError(
      `the secret file ${path} cannot be read (${code}): make it, or correct the variable that names it`,
      {
        cause,
      },
    );
  }
}
