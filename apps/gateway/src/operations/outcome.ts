/** The end of an operation, as the outcome of the request that asked for it. */
import { type Cause, isRefusedForNow } from "@torpor/contracts";
import {
  findSandbox,
  findSandboxRow,
  forOrganization,
  type OperationRow,
  type SandboxView,
} from "@torpor/db";
import { isTombstoned, OPERATION_TARGET } from "@torpor/state-machine";
import type { Dependencies } from "../deps.ts";
import { ApiError, sandboxDeleted } from "../http/errors.ts";

/**
 * Returns when the sandbox reached the target of the operation; throws the 409 or 429 otherwise,
 * never a 5xx: the SDKs would send the request again.
 */
export async function assertReached(
  deps: Pick<Dependencies, "db">,
  operation: OperationRow,
): Promise<void> {
  if (operation.status === "succeeded" || (await isWhereItWasWanted(deps, operation))) return;
  throw failureOf(operation);
}

/**
 * True for an operation that was given up while the sandbox reached its target by another: for the
 * client, nothing went wrong.
 */
async function isWhereItWasWanted(
  deps: Pick<Dependencies, "db">,
  operation: OperationRow,
): Promise<boolean> {
  if (operation.status !== "cancelled" && operation.status !== "superseded") return false;
  const sandbox = await findSandboxRow(
    forOrganization(deps.db, operation.organizationId),
    operation.sandboxId,
  );
  if (sandbox === undefined) return false;
  const target = OPERATION_TARGET[operation.kind];
  return target === "deleted" ? isTombstoned(sandbox.state) : sandbox.state === target;
}

function failureOf(operation: OperationRow): ApiError {
  const fallback = {
    code:
      operation.status === "superseded"
        ? "OPERATION_SUPERSEDED"
        : operation.status === "cancelled"
          ? "OPERATION_CANCELLED"
          : "OPERATION_FAILED",
    message: `The ${operation.kind} was ${operation.status}.`,
  };
  const { code, message, retryAfterSeconds }: Cause = operation.error ?? fallback;
  const noCapacity = code === "RESOURCE_LIMIT_ERROR";
  const missing = noCapacity && typeof operation.explain === "object" ? operation.explain : {};
  const retry = retryAfterSeconds === undefined ? {} : { retry_after_seconds: retryAfterSeconds };
  const details = {
    ...missing,
    ...retry,
    operation_id: operation.id,
    operation_status: operation.status,
  };
  const headers: Record<string, string> =
    retryAfterSeconds === undefined ? {} : { "retry-after": String(retryAfterSeconds) };
  return new ApiError({ code, status: isRefusedForNow(code) ? 429 : 409 }, message, {
    details,
    headers,
  });
}

/**
 * Throws the 410 for the repeat of a request that succeeded, if its sandbox has been deleted since.
 */
export async function assertStillThere(
  deps: Pick<Dependencies, "db">,
  operation: OperationRow,
): Promise<void> {
  if (operation.kind === "delete" || operation.status !== "succeeded") return;
  const db = forOrganization(deps.db, operation.organizationId);
  const sandbox = await findSandboxRow(db, operation.sandboxId);
  if (sandbox === undefined || isTombstoned(sandbox.state))
    throw sandboxDeleted(operation.sandboxId, operation);
}

/** The sandbox as it is now. Throws the 410 if it has been deleted since. */
export async function createdSandbox(
  deps: Pick<Dependencies, "db">,
  operation: OperationRow,
): Promise<SandboxView> {
  const db = forOrganization(deps.db, operation.organizationId);
  const view = await findSandbox(db, operation.sandboxId, operation.organizationId);
  if (view === undefined) throw sandboxDeleted(operation.sandboxId, operation);
  return view;
}
