/** Copies of sandboxes at rest: into the store, and off their host (planRelease). */
import { newOperationId, subjects } from "@torpor/contracts";
import { type Decision, findSnapshot, insertOutbox, type SandboxRow } from "@torpor/db";
import { planRelease, isAtRest, systemCommand } from "@torpor/plans";
import { decide, thisMoment } from "../decide.ts";
import type { Deps } from "../deps.ts";

type ReleaseDeps = Pick<Deps, "db" | "log" | "placer" | "publishCommitted">;

/**
 * `requested`: the command is sent. Call again until the result is `replicated`; a repeat costs
 * nothing. `not_possible`: the sandbox is not at rest, or is on no host.
 */
export type ReplicationRequested = "requested" | "replicated" | "not_possible";

/** Has a paused or stopped sandbox copied to the store. */
export async function requestReplication(
  deps: Pick<ReleaseDeps, "db" | "publishCommitted">,
  sandbox: SandboxRow,
  options: { maxBytesPerSecond?: number } = {},
): Promise<ReplicationRequested> {
  if (!isAtRest(sandbox)) return "not_possible";
  const snapshot = await findSnapshot(deps.db, sandbox.id);
  if (snapshot !== undefined && snapshot.storeKey !== null) return "replicated";
  const { hostId } = sandbox;
  if (hostId === null) return "not_possible";
  const { maxBytesPerSecond } = options;
  const payload = {
    ...systemCommand("replicate", sandbox, hostId, { now: new Date(), newOperationId }),
    ...(maxBytesPerSecond === undefined ? {} : { maxBytesPerSecond }),
  };
  const command = { subject: subjects.command(hostId, "replicate"), payload };
  await deps.publishCommitted(await insertOutbox(deps.db, [command]));
  return "requested";
}

/** `not_possible`: the sandbox is not at rest, or is not on that host. */
export type Released = "released" | "not_replicated" | "not_possible";

/** Takes a paused or stopped, replicated sandbox off the host that it is on. */
export async function releaseFromHost(
  deps: ReleaseDeps,
  { id: sandboxId, hostId }: Pick<SandboxRow, "id" | "hostId">,
): Promise<Released> {
  const decided = await decide<Released>(deps, { sandboxId }, (view): Decision<Released> => {
    if (view === undefined || view.sandbox.hostId !== hostId) return { answer: "not_possible" };
    const decision = planRelease(view, thisMoment());
    return decision.kind === "plan"
      ? { plan: decision.plan, answer: "released" }
      : { answer: decision.kind };
  });
  if (decided === "gave_up") return "not_possible";
  if (decided.applied !== undefined)
    deps.log.info({ sandboxId, hostId }, "sandbox released from its host");
  return decided.answer;
}
