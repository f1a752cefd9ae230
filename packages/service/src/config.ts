import { readFileSync } from "node:fs";
import type { Static, TObject } from "typebox";
import { Compile } from "typebox/compile";
import { Convert, Default } from "typebox/value";

/** Every problem of a configuration at once; values are never echoed. */
export class ConfigurationError extends Error {
  override readonly name = "ConfigurationError";
}

/** Reads what `schema` names from the environment: numbers and booleans are converted, defaults filled in. Throws ConfigurationError. */
export function loadConfig<Schema extends TObject>(schema: Schema, env: NodeJS.ProcessEnv): Static<Schema> {
  const named = Object.fromEntries(Object.keys(schema.properties).flatMap((name) => (env[name] === undefined ? [] : [[name, env[name]]])));
  const value = Convert(schema, Default(schema, named));
  const compiled = Compile(schema);
  if (compiled.Check(value)) return value;
  const problems = compiled.Errors(value).map((error) => `  ${error.instancePath.slice(1) || "environment"}: ${error.message}`);
  throw new ConfigurationError(`invalid configuration\n${[...new Set(problems)].join("\n")}`);
}

/** A secret that is kept in a file, without the newline that editors put behind it. */
export function readSecret(path: string): string {
  const secret = readFileSync(path, "utf8").trim();
  if (secret === "") throw new ConfigurationError(`the secret file ${path} is empty`);
  return secret;
}
