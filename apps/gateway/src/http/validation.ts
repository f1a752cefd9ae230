/**
 * Checks requests against their schemas. A body is never coerced; a query string is text, and is
 * converted. Problems name the field.
 */
import { Compile } from "typebox/compile";
import { IsObject, type TSchema } from "typebox";
import type { FastifySchemaCompiler } from "fastify";
import { isStorable } from "@torpor/contracts";
import { convertTexts } from "@torpor/service";
import { invalidRequest } from "./errors.ts";

interface SchemaError {
  keyword: string;
  schemaPath: string;
  instancePath: string;
  params: object;
  message: string;
}

interface FieldProblem {
  field: string;
  message: string;
  missing: boolean;
}

export const validatorCompiler: FastifySchemaCompiler<TSchema> = ({ schema, httpPart }) => {
  const compiled = Compile(schema);
  return (value: unknown) => {
    const judged = httpPart === "body" ? value : converted(schema, value);
    if (compiled.Check(judged)) return { value: judged };
    const problems = fieldProblems(
      compiled.Errors(judged as never) as SchemaError[],
      httpPart ?? "request",
    );
    const onlyMissing = problems.every((problem) => problem.missing);
    return {
      error: invalidRequest(
        problems.map(({ field, message }) => ({ field, message })),
        onlyMissing ? "MISSING_PARAMETER" : "INVALID_REQUEST",
      ),
    };
  };
};

function converted(schema: TSchema, value: unknown): unknown {
  return IsObject(schema) && typeof value === "object" && value !== null
    ? convertTexts(schema, { ...value })
    : value;
}

const MAX_PROBLEMS = 5;

/** One problem per field: the first with a useful message. A union reports one for each member. */
function fieldProblems(errors: SchemaError[], part: string): FieldProblem[] {
  const byField = new Map<string, FieldProblem>();
  for (const error of errors) {
    for (const problem of toProblems(error, part))
      if (!byField.has(problem.field)) byField.set(problem.field, problem);
  }
  return [...byField.values()].slice(0, MAX_PROBLEMS);
}

function toProblems(error: SchemaError, part: string): FieldProblem[] {
  const path = error.instancePath.split("/").slice(1).join(".");
  const at = (name: string) => (path === "" ? name : `${path}.${name}`);
  const params = error.params as {
    type?: unknown;
    requiredProperties?: string[];
    additionalProperties?: string[];
    allowedValues?: unknown[];
  };
  // Null is never the only type of a field: the message of the union's other member is the useful
  // one.
  if (error.keyword === "anyOf" || error.keyword === "boolean" || params.type === "null") return [];
  if (params.requiredProperties !== undefined)
    return params.requiredProperties.map((name) => ({
      field: at(name),
      message: "is required",
      missing: true,
    }));
  if (params.additionalProperties !== undefined) {
    return params.additionalProperties.map((name) => ({
      field: at(name),
      message: "is not an allowed name",
      missing: false,
    }));
  }
  const message =
    params.allowedValues === undefined
      ? error.message
      : `must be one of ${params.allowedValues.join(", ")}`;
  return [{ field: path === "" ? part : path, message, missing: false }];
}

/**
 * Path of a string (or name) that Postgres cannot store: with a NUL character, or with half a
 * surrogate pair; undefined when there is none. The search is as deep as requests have fields that
 * are stored; deeper ones are unknown, and ignored.
 */
export function findUnstorableText(value: unknown, path = "", depth = 3): string | undefined {
  if (typeof value === "string") return isStorable(value) ? undefined : path;
  if (typeof value !== "object" || value === null || depth === 0) return undefined;
  for (const [name, inner] of Object.entries(value)) {
    const innerPath = path === "" ? name : `${path}.${name}`;
    const found = isStorable(name) ? findUnstorableText(inner, innerPath, depth - 1) : innerPath;
    if (found !== undefined) return found.replaceAll("\0", "\\0").toWellFormed();
  }
  return undefined;
}
