import { type AcceptedOperation, findRepeat, forOrganization, type Requester } from "@torpor/db";
import type { Dependencies } from "./deps.ts";
import { keyReused } from "./errors.ts";

/** What was accepted of this request before. Throws the 422 of a key that was sent with another. */
export async function repeatOf(
  deps: Pick<Dependencies, "db">,
  requester: Requester,
): Promise<AcceptedOperation | undefined> {
  const repeat = await findRepeat(forOrganization(deps.db, requester.organizationId), requester);
  if (repeat?.kind === "key_reused") throw keyReused();
  return repeat;
}
