/**
 * `wait_for=replicated`: after the pause has ended, the request waits until its snapshot is in the
 * store too.
 */
import type { SandboxId } from "@torpor/contracts";
import { findSandbox, forOrganization, type SandboxView } from "@torpor/db";
import { ApiError, replicationInProgress, sandboxNotFound, stopping } from "../http/errors.ts";
import { type WaitDependencies, waitFor } from "./wait-for-operation.ts";

type Reached = { kind: "replicated" } | { kind: "refused"; error: ApiError };

/**
 * Returns when the snapshot is in the store; throws the 404 or 409 when it will not be, the 503
 * when it takes longer than the request may.
 */
export async function waitForReplica(
  deps: WaitDependencies,
  sandbox: { id: SandboxId; organizationId: number },
  gone: AbortSignal,
): Promise<void> {
  const look = async () =>
    judge(
      sandbox.id,
      await findSandbox(
        forOrganization(deps.db, sandbox.organizationId),
        sandbox.id,
        sandbox.organizationId,
      ),
    );
  const always = () => true;
  const waited = await waitFor(
    deps,
    { sandboxId: sandbox.id, look, wakes: always, looksAtOnce: always },
    gone,
  );
  if (waited.kind === "stopping") throw stopping();
  if (waited.kind !== "seen") throw replicationInProgress(sandbox.id, deps.limits.waitMs);
  if (waited.value.kind === "refused") throw waited.value.error;
}

/** Undefined: not yet. */
function judge(id: SandboxId, view: SandboxView | undefined): Reached | undefined {
  if (view === undefined) return { kind: "refused", error: sandboxNotFound(id) };
  const { sandbox, snapshotStoreKey, snapshotStoreError } = view;
  const current_state = sandbox.settledState;
  if (sandbox.state !== "paused") {
    const message = `The sandbox was paused, but is ${sandbox.state} again: its snapshot is not copied any more.`;
    return {
      kind: "refused",
      error: new ApiError("CONFLICT", message, { details: { current_state, requested: "pause" } }),
    };
  }
  if (typeof snapshotStoreKey === "string") return { kind: "replicated" };
  if (snapshotStoreError === null || snapshotStoreError === undefined) return undefined;
  const { code, message } = snapshotStoreError;
  const advice =
    "The sandbox is paused, on the disk of its host alone; the copy is tried again later.";
  return {
    kind: "refused",
    error: new ApiError({ code, status: 409 }, `${message} ${advice}`, {
      details: { current_state, durability: "host-disk" },
    }),
  };
}
