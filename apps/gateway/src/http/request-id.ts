import { randomUUID } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";

const SANE = /^[A-Za-z0-9._:-]{8,128}$/;

/** The client's own `x-request-id` if it is well-formed, else a new id. */
export function requestIdOf(headers: IncomingHttpHeaders): string {
  const given = headers["x-request-id"];
  return typeof given === "string" && SANE.test(given)
    ? given
    : `req_${randomUUID().replaceAll("-", "")}`;
}
