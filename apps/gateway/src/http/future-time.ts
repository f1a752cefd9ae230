import { invalidRequest } from "./errors.ts";

/** Parses a time in RFC 3339 that must be in the future. Throws the 400 that names the field. */
export function futureTime(field: string, text: string): Date {
  const timeMs = /^\d{4}-\d\d-\d\dT/.test(text) ? Date.parse(text) : Number.NaN;
  if (timeMs > Date.now()) return new Date(timeMs);
  const message = "must be a time in the future, as in 2031-05-01T12:00:00Z";
  throw invalidRequest([{ field, message }]);
}
