/**
 * Auto-resume: traffic to a paused sandbox resumes it and waits, its body unread, until it runs.
 *
 * WK1  The resume is accepted by the same code path as a user's; concurrent requests join one
 *      operation (S31).
 * WK2  Every wait has a limit, and so has the number of requests that wait for one sandbox: further
 *      ones get a 429.
 * WK3  Traffic does not start a stopped sandbox: that would be a boot, not the sandbox as it was
 *      left.
 */
import type { SandboxId } from "@torpor/contracts";
import { acceptRequest, findOperation, forOrganization, type SandboxView } from "@torpor/db";
import { goesHome } from "@torpor/placement";
import type { Dependencies } from "../deps.ts";
import {
  ApiError,
  operationInProgress,
  sandboxNotFound,
  stopping,
  tooManyRequests,
} from "../http/errors.ts";
import { assertReached } from "../operations/outcome.ts";
import { quotaRefused } from "../auth/quotas.ts";
import { waitForOperation } from "../operations/wait-for-operation.ts";
import type { Endpoint } from "./endpoint.ts";

/** Waiting requests per sandbox and gateway. */
const MAX_HELD = 64;
/** The resume gives up before the requests that wait for it do, so that they can report why. */
const DEADLINE_LEAD_MS = 2_000;

export type WakeDependencies = Pick<
  Dependencies,
  "db" | "log" | "events" | "publishCommitted" | "stopping" | "limits" | "busConnected"
>;

/** The client left during the wait: no response is needed. */
class ClientGoneError extends Error {
  override readonly name = "ClientGoneError";
}

export class Waker {
  private readonly deps: WakeDependencies;
  private readonly held = new Map<SandboxId, number>();

  constructor(deps: WakeDependencies) {
    this.deps = deps;
  }

  /**
   * True if traffic may resume the sandbox: it is paused, is being paused or already being resumed,
   * and its policy allows a resume.
   */
  mayWake({ sandbox }: SandboxView): boolean {
    return sandbox.autoResume && (sandbox.settledState === "paused" || sandbox.state === "pausing");
  }

  /**
   * Returns the sandbox once it runs, or as it is when it can no longer be resumed. Throws the
   * error for the response when the resume fails.
   */
  async wake(endpoint: Endpoint, view: SandboxView, gone: AbortSignal): Promise<SandboxView> {
    const { id } = view.sandbox;
    const held = this.held.get(id) ?? 0;
    if (held >= MAX_HELD)
      throw tooManyRequests(`${held} requests wait for this sandbox to be resumed already.`, 1);
    this.held.set(id, held + 1);
    try {
      return await this.resumed(endpoint, view, gone);
    } finally {
      const left = (this.held.get(id) ?? 1) - 1;
      if (left > 0) this.held.set(id, left);
      else this.held.delete(id);
    }
  }

  private async resumed(
    endpoint: Endpoint,
    view: SandboxView,
    gone: AbortSignal,
  ): Promise<SandboxView> {
    const { db } = this.deps;
    const limitAt = performance.now() + this.deps.limits.autoResumeWaitMs;
    let current = view;
    // More than once if another operation was under way, or the sandbox was paused again.
    while (current.sandbox.state !== "running" && this.mayWake(current)) {
      await this.resumeOnce(current, limitAt, gone);
      const next = await endpoint.find(db);
      if (next === undefined) throw sandboxNotFound(endpoint.name);
      current = next;
    }
    return current;
  }

  private async resumeOnce(
    { sandbox }: SandboxView,
    limitAt: number,
    gone: AbortSignal,
  ): Promise<void> {
    const { limits, publishCommitted } = this.deps;
    const db = forOrganization(this.deps.db, sandbox.organizationId);
    const waitMs = limitAt - performance.now();
    const requester = {
      organizationId: sandbox.organizationId,
      requestedBy: "system:auto-resume",
      deadlineMs: Math.max(1_000, waitMs - DEADLINE_LEAD_MS),
    };
    const accepted = await acceptRequest(db, sandbox.id, "resume", requester, goesHome);
    if (accepted.kind === "accepted") await publishCommitted(accepted.messages);
    const operation =
      accepted.kind === "accepted"
        ? accepted.operation
        : accepted.kind === "blocked"
          ? await findOperation(db, accepted.by.id)
          : undefined;
    if (accepted.kind === "conflict")
      throw new ApiError(
        "CONFLICT",
        `The sandbox is going to be ${accepted.current} and cannot be resumed.`,
        {
          details: {
            current_state: sandbox.settledState,
            requested: "resume",
            allowed: accepted.allowed,
          },
        },
      );
    if (accepted.kind === "quota_exceeded") throw quotaRefused(accepted);
    // The sandbox runs or is gone: the caller's next read shows which.
    if (operation === undefined) return;
    const isNew = accepted.kind === "accepted" && accepted.isNew;
    const waited = await waitForOperation(
      { ...this.deps, limits: { ...limits, waitMs } },
      { operation, isNew },
      gone,
    );
    if (waited.kind === "client_gone")
      throw new ClientGoneError("the client left while its sandbox was being resumed");
    if (waited.kind === "stopping") throw stopping();
    if (waited.kind === "still_open")
      throw operationInProgress(operation.id, operation.kind, limits.autoResumeWaitMs);
    if (accepted.kind === "accepted") await assertReached(this.deps, waited.operation);
  }
}
