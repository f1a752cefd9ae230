/**
 * Host loss, for sandboxes whose policy is `restore`: their newest snapshot in the store is resumed
 * on another host, and what they did since is lost. If the newest copy is the disk of a sandbox
 * that was stopped and has not been paused since, the sandbox is started instead.
 *
 * RL1  Only a run that a fence guarded is restored: the run began with the policy, and a fence was
 *      alive at the host's last report. When the host's own lease ends, which is before the control
 *      plane's, the fence freezes the VM; the margin after it is for the freezing and for clocks.
 *      So the VM is frozen before another begins.
 * RL2  The decision is one plan, and the host cannot renew its lease while that plan is applied:
 *      either the host is back, and its VM may be thawed, or this run has ended for good
 *      (handleThaw).
 * RL3  Nothing is decided before a host can take the sandbox: until then the sandbox stays with the
 *      lost host, which may come back.
 * RL4  A restore that fails is tried again (restoreAgain) until the sandbox runs, or its owner
 *      wants it at rest.
 * RL5  Once the restore is decided, the sandbox is on no host, like a released one: what it rests
 *      on is in the store. A host that comes back may hold a VM of the sandbox, and can change
 *      nothing any more.
 */
import type { Cause, HostId } from "@torpor/contracts";
import {
  applyBatched,
  findSnapshot,
  findStoredSnapshot,
  hasEventSince,
  listLostRuns,
  listPendingRestores,
  type LostRun,
  type SandboxRow,
  type SandboxRows,
  type StoredSnapshotRow,
  type WantedView,
} from "@torpor/db";
import { requestToReturn } from "@torpor/placement";
import {
  type Plan,
  planMoves,
  planRestore,
  planRestoreAgain,
  restoredBy,
  restsAs,
} from "@torpor/plans";
import { beginOperation } from "../operations/begin-operation.ts";
import { decide, thisMoment } from "../decide.ts";
import type { Deps } from "../deps.ts";

/** Long: the room that a host had when the resume was accepted may have been taken by others. */
const RESTORE_DEADLINE_MS = 300_000;

/** Decision about a lost run: restored, or the event for its owner, once per loss. */
type Decision =
  | { kind: "restore"; snapshot: StoredSnapshotRow }
  | { kind: "cannot"; fact: "restore_impossible" | "restore_waits"; cause: Cause };

export async function restoreLostRuns(deps: Deps, limit: number): Promise<Record<string, number>> {
  const runs = await listLostRuns(deps.db, deps.hostTerms.lossMarginMs, limit);
  let restored = 0;
  // In sequence: each restore claims its room before the next one searches for some (RL3).
  for (const run of runs) if (await restoreOrTell(deps, run)) restored += 1;
  return { lost: runs.length, restored };
}

async function restoreOrTell(deps: Deps, run: LostRun): Promise<boolean> {
  const decision = await decideRestore(deps, run);
  if (decision.kind === "restore") return await restore(deps, run, decision.snapshot);
  await tellOnce(deps, run, decision);
  return false;
}

async function decideRestore(
  deps: Deps,
  { sandbox, host, incarnation }: LostRun,
): Promise<Decision> {
  const impossible = (code: string, why: string): Decision => ({
    kind: "cannot",
    fact: "restore_impossible",
    cause: {
      code,
      message: `Host ${host.id} is lost, and ${why}: the sandbox comes back with its host.`,
    },
  });
  if (incarnation.onHostLoss !== "restore")
    return impossible(
      "POLICY_NOT_IN_FORCE",
      "this run began before on_host_loss was set to restore",
    );
  if (!host.hasFence)
    return impossible("HOST_NOT_FENCED", "no fence ran on it, so that the VM may still run");
  const snapshot = await findStoredSnapshot(deps.db, sandbox.id);
  if (snapshot === undefined)
    return impossible("NOTHING_TO_RESTORE", "no snapshot of the sandbox was ever replicated");
  const request = await requestToReturn(deps.db, {
    kind: restoredBy(restsAs(snapshot)),
    sandbox,
    snapshot,
    origin: undefined,
  });
  const unplaceable = await deps.placer.checkPlaceable(request);
  if (unplaceable === undefined) return { kind: "restore", snapshot };
  const message = `Host ${host.id} is lost, and no other can take the sandbox yet. ${unplaceable}`;
  return {
    kind: "cannot",
    fact: "restore_waits",
    cause: { code: "RESOURCE_LIMIT_ERROR", message },
  };
}

async function tellOnce(
  deps: Deps,
  { sandbox, host }: LostRun,
  { fact, cause }: Extract<Decision, { kind: "cannot" }>,
): Promise<void> {
  if (await hasEventSince(deps.db, sandbox.id, fact, host.leaseExpiresAt)) return;
  const told = await applyBatched(
    deps.db,
    planMoves(sandbox, [{ to: sandbox.state, fact, cause }]),
  );
  if (told.kind === "failed") throw told.error;
  if (told.kind !== "applied") return;
  deps.log.warn({ sandboxId: sandbox.id, hostId: host.id, cause }, "lost run not restored");
  await deps.publishCommitted(told.messages);
}

/**
 * Ends the run, makes the snapshot the sandbox's state, and has the sandbox resumed or started.
 * False: the sandbox has changed meanwhile.
 */
async function restore(
  deps: Deps,
  { sandbox, host }: LostRun,
  snapshot: StoredSnapshotRow,
): Promise<boolean> {
  const { id: sandboxId, epoch, generation } = sandbox;
  const cause = lossOf(host.id, snapshot);
  const loss = { hostId: host.id, silentForMs: deps.hostTerms.lossMarginMs, snapshot, cause };
  // The row must be as it was when the snapshot was chosen: the host may have stored a newer one.
  const plan = (view: SandboxRows) =>
    view.sandbox.generation === generation
      ? planRestore(view, loss, requesterFor(sandbox), thisMoment())
      : undefined;
  const applied = await decideOnce(deps, { sandboxId }, plan);
  if (applied === undefined) return false;
  deps.log.warn({ sandboxId, hostId: host.id, epoch, cause }, "lost run restored");
  if (applied.queued !== undefined) await beginOperation(deps, applied.queued.id);
  return true;
}

/**
 * Resumes or starts sandboxes whose restore has failed: the second host was lost as well, or the
 * store was away.
 */
export async function restoreAgain(deps: Deps, limit: number): Promise<Record<string, number>> {
  const owed = await listPendingRestores(deps.db, limit);
  let begun = 0;
  for (const one of owed) if (await beginAgain(deps, one)) begun += 1;
  return { owed: owed.length, begun };
}

async function beginAgain(
  deps: Deps,
  { sandbox, epoch }: Awaited<ReturnType<typeof listPendingRestores>>[number],
): Promise<boolean> {
  const { id: sandboxId, organizationId } = sandbox;
  const snapshot = await findSnapshot(deps.db, sandboxId);
  const origin = await deps.placer.find(sandbox.hostId);
  const request = await requestToReturn(deps.db, {
    kind: restoredBy(sandbox.state),
    sandbox,
    snapshot,
    origin,
  });
  if ((await deps.placer.checkPlaceable(request)) !== undefined) return false;
  const plan = (view: SandboxRows) =>
    planRestoreAgain(view, epoch, requesterFor(sandbox), thisMoment());
  const applied = await decideOnce(deps, { sandboxId, request: { organizationId } }, plan);
  if (applied?.queued === undefined) return false;
  deps.log.warn({ sandboxId, epoch }, "lost run restored again");
  await beginOperation(deps, applied.queued.id);
  return true;
}

/**
 * The applied plan. Undefined: there was nothing to do, or another scheduler was faster. The next
 * round finds out what is left to do.
 */
async function decideOnce(
  deps: Deps,
  wanted: WantedView,
  planFrom: (view: SandboxRows) => Plan | undefined,
) {
  let isFirst = true;
  const decided = await decide(deps, wanted, (view) => {
    const plan = view === undefined || !isFirst ? undefined : planFrom(view);
    isFirst = false;
    return { plan, answer: undefined };
  });
  return decided !== "gave_up" && decided.applied?.kind === "applied" ? decided.applied : undefined;
}

const requesterFor = ({ organizationId }: SandboxRow) => ({
  organizationId,
  requestedBy: "system:host-loss",
  deadlineMs: RESTORE_DEADLINE_MS,
  exemptFromQuotas: true,
});

function lossOf(hostId: HostId, { createdAt, generation, hasMemory }: StoredSnapshotRow): Cause {
  const ageSeconds = Math.round((Date.now() - createdAt.getTime()) / 1000);
  const goesOn = hasMemory
    ? `resumed on another one from its snapshot ${generation}`
    : `started on another one from its snapshot ${generation}, its disk alone,`;
  return {
    code: "HOST_LOST",
    message: `Host ${hostId} is lost. The sandbox is ${goesOn} of ${createdAt.toISOString()}, ${ageSeconds} s ago; what it did after that is lost.`,
  };
}
