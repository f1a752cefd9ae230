/**
 * Deletes the sandbox of a create without Idempotency-Key whose client never got the response: no
 * client knows the sandbox's id, and the SDK sends another create. The delete takes the same code
 * path as a user's; `system:abandoned-create` requests it.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { SandboxId } from "@torpor/contracts";
import { acceptRequest, forOrganization } from "@torpor/db";
import { inOwnLane } from "../database-turns.ts";
import type { Dependencies } from "../deps.ts";

export type Abandonment = "client left" | "no answer";

const DELETE_DEADLINE_MS = 60_000;
const MAX_ATTEMPTS = 10;
const RETRY_MAX_MS = 30_000;

type AbandonDependencies = Pick<Dependencies, "db" | "log" | "publishCommitted">;

interface Abandoned {
  id: SandboxId;
  organizationId: number;
}

/**
 * Queues the delete, and retries for about two and a half minutes while the database fails.
 * Resolves when the delete is queued or given up; never rejects. Runs in the gateway's own lane,
 * and so gets a slot at the database even when the lane of the client's requests gets none.
 */
export async function deleteAbandoned(
  deps: AbandonDependencies,
  sandbox: Abandoned,
  why: Abandonment,
): Promise<void> {
  await inOwnLane(() => untilDeleted(deps, sandbox, why));
}

async function untilDeleted(
  deps: AbandonDependencies,
  sandbox: Abandoned,
  why: Abandonment,
): Promise<void> {
  const requester = {
    organizationId: sandbox.organizationId,
    requestedBy: "system:abandoned-create",
    deadlineMs: DELETE_DEADLINE_MS,
  };
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
    try {
      const accepted = await acceptRequest(
        forOrganization(deps.db, sandbox.organizationId),
        sandbox.id,
        "delete",
        requester,
      );
      if (accepted.kind === "accepted" && accepted.isNew) {
        deps.log.info(
          { sandboxId: sandbox.id, why, operationId: accepted.operation.id },
          "abandoned create deleted",
        );
        await deps.publishCommitted(accepted.messages);
      }
      return;
    } catch (err) {
      deps.log.warn(
        { err, sandboxId: sandbox.id, why, attempt },
        "abandoned create could not be deleted yet",
      );
      await sleep(Math.min(RETRY_MAX_MS, 500 * 2 ** attempt), undefined, { ref: false });
    }
  }
  deps.log.error(
    { sandboxId: sandbox.id, why },
    "abandoned create was left behind: delete it by hand",
  );
}
