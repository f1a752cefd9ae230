/** Parts of schemas that the routes of the gateway share. */
import { ApiErrorBody } from "@torpor/contracts";
import { Type } from "typebox";

/** Responses that every route may give. */
export const ERRORS = { "4xx": ApiErrorBody, "5xx": ApiErrorBody } as const;

export const IdParams = Type.Object({ id: Type.String() });

/** Headers that a route reads. requester.ts checks them; the schema only describes them. */
export const TermsHeaders = Type.Object({
  "idempotency-key": Type.Optional(
    Type.String({
      description: "Makes the request safe to repeat: the same key gives the same result, once",
    }),
  ),
  prefer: Type.Optional(
    Type.String({
      description:
        "`respond-async`: answer 202 with the operation at once. `wait=<seconds>`: give up sooner than the server would",
    }),
  ),
});
