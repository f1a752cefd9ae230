/**
 * Makes messages from the versioned JSON schemas, with the parts of JSON Schema that they use. A
 * path names a field: `inventory[].state`.
 */
import fc from "fast-check";

export interface JsonSchema {
  type?: string;
  const?: unknown;
  enum?: unknown[];
  anyOf?: JsonSchema[];
  properties?: Record<string, JsonSchema>;
  required?: string[];
  patternProperties?: Record<string, JsonSchema>;
  items?: JsonSchema;
  maxItems?: number;
  pattern?: string;
  minimum?: number;
  maximum?: number;
}

/** Allowed values of each field that has a closed set of values. */
export type Vocabulary = Map<string, Set<unknown>>;

const MAX_NUMBER = 2 ** 31;

function literalsOf({ const: value, enum: values = [], anyOf = [] }: JsonSchema): unknown[] {
  return [...(value === undefined ? [] : [value]), ...values, ...anyOf.flatMap(literalsOf)];
}

export function vocabularyOf(
  schema: JsonSchema,
  path = "",
  known: Vocabulary = new Map(),
): Vocabulary {
  const literals = literalsOf(schema);
  if (literals.length > 0) known.set(path, new Set(literals));
  for (const [name, property] of Object.entries(schema.properties ?? {}))
    vocabularyOf(property, `${path}.${name}`, known);
  if (schema.items !== undefined) vocabularyOf(schema.items, `${path}[]`, known);
  return known;
}

/**
 * Any message that the schema allows, with added fields that no schema knows. A field that `known`
 * lists gets only values from `known`.
 */
export function messagesOf(
  schema: JsonSchema,
  known: Vocabulary,
  path = "",
): fc.Arbitrary<unknown> {
  const literals = literalsOf(schema).filter((value) => known.get(path)?.has(value) ?? true);
  const others = (schema.anyOf ?? []).filter((option) => literalsOf(option).length === 0);
  if (literals.length > 0)
    return fc.oneof(
      fc.constantFrom(...literals),
      ...others.map((option) => messagesOf(option, known, path)),
    );
  if (others.length > 0)
    return fc.oneof(...others.map((option) => messagesOf(option, known, path)));
  switch (schema.type) {
    case "object":
      return objectsOf(schema, known, path);
    case "array":
      return fc.array(messagesOf(schema.items ?? {}, known, `${path}[]`), {
        maxLength: Math.min(3, schema.maxItems ?? 3),
      });
    case "string":
      return schema.pattern === undefined
        ? fc.string()
        : fc.stringMatching(new RegExp(schema.pattern));
    case "integer":
      return fc.integer({ min: schema.minimum ?? -MAX_NUMBER, max: schema.maximum ?? MAX_NUMBER });
    case "number":
      return fc.double({ noNaN: true, noDefaultInfinity: true });
    case "boolean":
      return fc.boolean();
    case "null":
      return fc.constant(null);
    default:
      throw new Error(`no message can be made of ${path}: ${JSON.stringify(schema)}`);
  }
}

function objectsOf(
  { properties, required = [], patternProperties }: JsonSchema,
  known: Vocabulary,
  path: string,
): fc.Arbitrary<unknown> {
  const [values] = Object.values(patternProperties ?? {});
  if (values !== undefined)
    return fc.dictionary(fc.string(), messagesOf(values, known, `${path}{}`));
  const fields = Object.fromEntries(
    Object.entries(properties ?? {}).map(([name, property]) => [
      name,
      messagesOf(property, known, `${path}.${name}`),
    ]),
  );
  const added = fc.option(fc.constant({ addedLater: { by: "a newer version" } }), { nil: {} });
  return fc
    .tuple(fc.record(fields, { requiredKeys: required.filter((name) => name in fields) }), added)
    .map(([message, more]) => ({ ...message, ...more }));
}
