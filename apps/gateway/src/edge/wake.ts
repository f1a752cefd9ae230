/**
 * Auto-resume: traffic to a paused sandbox resumes it and waits, its body unread, until it runs.
 *
 * WK1  The resume is accepted through the same door as a user's; requests that come together join
 *      one operation (S31).
 * WK2  Every wait has a limit, and so has the number of those who wait for one sandbox: others are
 *      turned away.
 * WK3  A stopped sandbox is not started by traffic: that would be a boot, not the sandbox as it was
 *      left.
 */
import { acceptRequest, findOperation, forOrganization, type SandboxView } from "@torpor/db";
import { goesHome } from "@torpor/placement";
import type { Dependencies } from "../deps.ts";
import {
  ApiError,
  operationInProgress,
  sandboxNotFound,
  stopping,
  tooManyRequests,
} from "../errors.ts";
import { assertReached } from "../outcome.ts";
import { quotaRefused } from "../quotas.ts";
import { waitForOperation } from "../wait-for-operation.ts";
import type { Endpoint } from "./endpoint.ts";

/** Per sandbox and gateway. */
const MAX_HELD = 64;
/** The resume gives up before those who wait for it do, so that they can say why. */
const DEADLINE_LEAD_MS = 2_000;

export type WakeDependencies = Pick<
  Dependencies,
  "db" | "log" | "events" | "publishCommitted" | "stopping" | "limits" | "busConnected"
>;

/** The client left while it waited: there is nobody to answer. */
class ClientGoneError extends Error {
  override readonly name = "ClientGoneError";
}

export class Waker {
  private readonly deps: WakeDependencies;
  private readonly held = new Map<string, number>();

  constructor(deps: WakeDependencies) {
    this.deps = deps;
  }

  /**
   * Whether traffic may resume it: it is paused, is being paused or already being resumed, and its
   * policy says so.
   */
  mayWake({ sandbox }: SandboxView): boolean {
    return sandbox.autoResume && (sandbox.settledState === "paused" || sandbox.state === "pausing");
  }

  /**
   * Returns the sandbox once it runs, or as it is when it can no longer be resumed. Throws what the
   * request is to be answered with when it cannot be.
   */
  async wake(door: Endpoint, view: SandboxView, gone: AbortSignal): Promise<SandboxView> {
    const { id } = view.sandbox;
    const held = this.held.get(id) ?? 0;
    if (held >= MAX_HELD)
      throw tooManyRequests(`${held} requests wait for this sandbox to be resumed already.`, 1);
    this.held.set(id, held + 1);
    try {
      return await this.resumed(door, view, gone);
    } finally {
      const left = (this.held.get(id) ?? 1) - 1;
      if (left > 0) this.held.set(id, left);
      else this.held.delete(id);
    }
  }

  private async resumed(
    door: Endpoint,
    view: SandboxView,
    gone: AbortSignal,
  ): Promise<SandboxView> {
    const { db } = this.deps;
    const limitAt = performance.now() + this.deps.limits.autoResumeWaitMs;
    let current = view;
    // More than once, when something else was under way, or it was paused again meanwhile.
    while (current.sandbox.state !== "running" && this.mayWake(current)) {
      await this.resumeOnce(current, limitAt, gone);
      const next = await door.find(db);
      if (next === undefined) throw sandboxNotFound(door.name);
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
    // It runs or is gone: the next look at it says which.
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
