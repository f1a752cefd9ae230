import type { OperationResource } from "@torpor/contracts";
import type { OperationRow } from "@torpor/db";
import type { FastifyReply } from "fastify";
import { operationView } from "../views/sandbox.ts";

/** `Prefer: respond-async` (RFC 7240): 202, with the operation and its location. */
export function respondAsync(
  reply: Pick<FastifyReply, "raw"> & { status(code: 202): { headers(values: object): unknown } },
  operation: OperationRow,
  requestId: string,
): OperationResource {
  reply
    .status(202)
    .headers({ location: `/v1/operations/${operation.id}`, "preference-applied": "respond-async" });
  return { ...operationView(operation), request_id: requestId };
}
