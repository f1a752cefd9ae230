/**
 * Filters of lists. An unknown parameter is refused: if a filter is ignored, the list has
 * everything, and the client does to all what it meant for a few.
 */
import { LISTED_STATES, type ListedState } from "@torpor/contracts";
import type { FastifyRequest } from "fastify";
import { invalidRequest } from "./errors.ts";

const METADATA = /^metadata\[(.{1,128})\]$/u;
const MAX_METADATA_FILTERS = 16;

/**
 * A `preValidation` hook. A route takes `metadata[…]` if the schema of its query has `metadata`.
 */
export async function refuseUnknownParameters(request: FastifyRequest): Promise<void> {
  if (request.is404) return;
  const schema = request.routeOptions.schema?.querystring as QuerySchema | undefined;
  const known = Object.keys(schema?.properties ?? {});
  const unknown = Object.keys(request.query as object).filter(
    (name) => !known.includes(name) && !(known.includes("metadata") && METADATA.test(name)),
  );
  if (unknown.length === 0) return;
  const message =
    known.length === 0
      ? "is not a parameter: this request takes none"
      : `is not a parameter: there are ${known.join(", ")}`;
  throw invalidRequest(unknown.slice(0, 5).map((field) => ({ field, message })));
}

interface QuerySchema {
  properties?: Record<string, unknown>;
}

/** Parses `running,paused`. Throws the 400 for an unknown state. */
export function statesIn(text: string | undefined): ListedState[] | undefined {
  if (text === undefined) return undefined;
  const names = text.split(",").map((name) => name.trim());
  const isState = (name: string): name is ListedState =>
    LISTED_STATES.includes(name as ListedState);
  if (names.every(isState)) return [...new Set(names)];
  const message = `must be one or more of ${LISTED_STATES.join(", ")}, with commas between them`;
  throw invalidRequest([{ field: "status", message }]);
}

/**
 * Parses `metadata[name]=value`, all of which must hold. Throws the 400 for too many, or for a name
 * that is given twice.
 */
export function metadataIn(query: object): Record<string, string> | undefined {
  const asked = Object.entries(query).flatMap(([parameter, value]) => {
    const name = METADATA.exec(parameter)?.[1];
    return name === undefined ? [] : [[name, value] as const];
  });
  if (asked.length === 0) return undefined;
  if (asked.length > MAX_METADATA_FILTERS)
    throw invalidRequest([
      { field: "metadata", message: `must be at most ${MAX_METADATA_FILTERS} names` },
    ]);
  const twice = asked.find(([, value]) => typeof value !== "string");
  if (twice !== undefined)
    throw invalidRequest([{ field: `metadata[${twice[0]}]`, message: "must be given once" }]);
  return Object.fromEntries(asked) as Record<string, string>;
}
