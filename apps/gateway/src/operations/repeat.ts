import { type AcceptedOperation, findRepeat, forOrganization, type Requester } from "@torpor/db";
import type { Dependencies } from "../deps.ts";
import { keyReused } from "../http/errors.ts";

/**
 * The operation that was accepted for this request before. Throws the 422 for an Idempotency-Key
 * that was sent with another request.
 */
export async function repeatOf(
  deps: Pick<Dependencies, "db">,
  requester: Requester,
): Promise<AcceptedOperation | undefined> {
  const repeat = await findRepeat(forOrganization(deps.db, requester.organizationId), requester);
  if (repeat?.kind === "key_reused") throw keyReused();
  return repeat;
}
