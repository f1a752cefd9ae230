/**
 * Host loss, for sandboxes whose policy is `restore`: their newest snapshot in the store is resumed on another host, and what they did since is lost. Where that is the disk of a sandbox that
 * was stopped and has not been paused since, it is started.
 *
 * RL1  Only what ran guarded by a fence is restored: the run began with the policy, and a fence lived when the host last spoke. When its lease ends, which is before ours does, the fence
 *      freezes the VM; the margin after it is for that and for clocks. So the VM stands before another begins.
 * RL2  The decision is one transaction, which the host cannot renew its lease beside: either it is back, and its VM may be thawed, or this run has ended for good (answerThaw).
 * RL3  Nothing is decided before a host can take it: until then the sandbox stays the lost host's, which may come back.
 * RL4  A restore that fails is tried again (restoreAgain) until the sandbox runs, or its owner wants it to stand still.
 * RL5  Once it is decided the sandbox is on no host, like one that was released: what it rests on is in the store. A host that comes back may hold a VM of it, and has no say any more.
 */
import type { Cause } from "@torpor/contracts";
import {
  type AcceptRequest,
  acceptWithin,
  applyBatched,
  findOpenOperations,
  findSnapshot,
  findStoredSnapshot,
  hasEventSince,
  holdLostHost,
  inTransaction,
  listLostRuns,
  listOwedRestores,
  type LostRun,
  markIncarnationEnded,
  moveOperation,
  moveSandbox,
  type OutboxRow,
  oweRestore,
  returnToSnapshot,
  type SandboxRow,
  type SnapshotRow,
  takeOwedRestore,
} from "@torpor/db";
import { requestToReturn } from "@torpor/placement";
import { planMoves, settledPatch } from "@torpor/plans";
import { transitionSandbox } from "@torpor/state-machine";
import { beginOperation } from "./begin-operation.ts";
import type { Deps } from "./deps.ts";

/** A resume that a host had room for when it was accepted, and that others were faster for. */
const RESTORE_DEADLINE_MS = 300_000;

/** Whether a lost run can be restored; else what its owner is told, once per loss. */
type Decision = { kind: "restore"; snapshot: SnapshotRow } | { kind: "cannot"; fact: "restore_impossible" | "restore_waits"; cause: Cause };

export async function restoreLostRuns(deps: Deps, limit: number): Promise<Record<string, number>> {
  const runs = await listLostRuns(deps.db, deps.hostTerms.lossMarginMs, limit);
  let restored = 0;
  for (const run of runs) {
    const decision = await decideRestore(deps, run);
    if (decision.kind === "cannot") await tellOnce(deps, run, decision);
    else if (await restore(deps, run, decision.snapshot)) restored += 1;
  }
  return { lost: runs.length, restored };
}

async function decideRestore(deps: Deps, { sandbox, host, incarnation }: LostRun): Promise<Decision> {
  const impossible = (code: string, why: string): Decision => ({
    kind: "cannot",
    fact: "restore_impossible",
    cause: { code, message: `Host ${host.id} is lost, and ${why}: the sandbox comes back with its host.` },
  });
  if (incarnation.onHostLoss !== "restore")
    return impossible("POLICY_NOT_IN_FORCE", "this run began before on_host_loss was set to restore");
  if (!host.hasFence) return impossible("HOST_NOT_FENCED", "no fence ran on it, so that the VM may still run");
  const snapshot = await findStoredSnapshot(deps.db, sandbox.id);
  if (snapshot === undefined) return impossible("NOTHING_TO_RESTORE", "no snapshot of the sandbox was ever replicated");
  const request = await requestToReturn(deps.db, { kind: kindFor(standing(snapshot)), sandbox, snapshot, origin: undefined });
  const nowhere = await deps.placer.whyNowhere(request);
  if (nowhere === undefined) return { kind: "restore", snapshot };
  const message = `Host ${host.id} is lost, and no other can take the sandbox yet. ${nowhere}`;
  return { kind: "cannot", fact: "restore_waits", cause: { code: "RESOURCE_LIMIT_ERROR", message } };
}

async function tellOnce(deps: Deps, { sandbox, host }: LostRun, { fact, cause }: Extract<Decision, { kind: "cannot" }>): Promise<void> {
  if (await hasEventSince(deps.db, sandbox.id, fact, host.leaseExpiresAt)) return;
  const told = await applyBatched(deps.db, planMoves(sandbox, [{ to: sandbox.state, fact, cause }]));
  if (told.kind === "failed") throw told.error;
  if (told.kind !== "applied") return;
  deps.log.warn({ sandboxId: sandbox.id, hostId: host.id, cause }, "a lost run is not restored");
  await deps.publishCommitted(told.messages);
}

/** What brings back a sandbox that stands so. */
const kindFor = (state: SandboxRow["state"]) => (state === "stopped" ? "start" : "resume");
const FACT = { paused: "is_lost", stopped: "is_stopped" } as const;
/** What a sandbox is that rests on it. */
const standing = ({ hasMemory }: SnapshotRow) => (hasMemory ? "paused" : "stopped");

/** Ends the run, makes the snapshot the sandbox's state, and has it resumed through the same door as by a user. False: something changed meanwhile. */
async function restore(deps: Deps, { sandbox, host }: LostRun, snapshot: SnapshotRow): Promise<boolean> {
  const stands = standing(snapshot);
  const transition = transitionSandbox(sandbox.state, FACT[stands]);
  if (transition.kind !== "move") return false;
  const cause = lossOf(host.id, snapshot);
  const done = await inTransaction<{ messages: OutboxRow[]; operationId?: string }, null>(deps.db, async (tx, rollback) => {
    const { executing } = await findOpenOperations(tx, sandbox.id);
    const ended = executing === undefined ? undefined : await moveOperation(tx, executing.id, "fail", { error: cause });
    const moved = await moveSandbox(tx, {
      sandbox,
      to: transition.to,
      fact: "host_lost",
      patch: { ...settledPatch(sandbox, transition.to, undefined, new Date()), condition: null, hostId: null },
      ...(ended === undefined ? {} : { operation: { id: ended.id, status: ended.status } }),
      cause,
    });
    if (moved.kind !== "moved" || !(await holdLostHost(tx, host.id, deps.hostTerms.lossMarginMs))) return rollback(null);
    await markIncarnationEnded(tx, sandbox.id, sandbox.epoch, "host_lost");
    await returnToSnapshot(tx, sandbox.id, snapshot.generation);
    const accepted = await acceptWithin(tx, sandbox.id, kindFor(stands), requesterFor(sandbox));
    // What its owner has asked for meanwhile, and waits, goes before.
    if (accepted.kind !== "accepted") return { messages: moved.messages };
    await oweRestore(tx, sandbox.id, sandbox.epoch);
    return { messages: [...moved.messages, ...accepted.messages], operationId: accepted.operation.id };
  });
  if (done === null) return false;
  deps.log.warn({ sandboxId: sandbox.id, hostId: host.id, epoch: sandbox.epoch, cause }, "a lost run is restored");
  await deps.publishCommitted(done.messages);
  if (done.operationId !== undefined) await beginOperation(deps, done.operationId);
  return true;
}

/** Resumes or starts those whose restore has come to nothing: the second host was lost as well, or the store was away. */
export async function restoreAgain(deps: Deps, limit: number): Promise<Record<string, number>> {
  const owed = await listOwedRestores(deps.db, limit);
  let begun = 0;
  for (const { sandbox, epoch } of owed) {
    const kind = kindFor(sandbox.state);
    const snapshot = await findSnapshot(deps.db, sandbox.id);
    const origin = await deps.placer.find(sandbox.hostId);
    const request = await requestToReturn(deps.db, { kind, sandbox, snapshot, origin });
    if ((await deps.placer.whyNowhere(request)) !== undefined) continue;
    const accepted = await inTransaction<AcceptRequest, null>(deps.db, async (tx, rollback) => {
      const again = await acceptWithin(tx, sandbox.id, kind, requesterFor(sandbox));
      return (await takeOwedRestore(tx, sandbox.id, epoch)) ? again : rollback(null);
    });
    if (accepted?.kind !== "accepted") continue;
    deps.log.warn({ sandboxId: sandbox.id, epoch }, "a lost run is restored once more");
    await deps.publishCommitted(accepted.messages);
    await beginOperation(deps, accepted.operation.id);
    begun += 1;
  }
  return { owed: owed.length, begun };
}

const requesterFor = ({ organizationId }: SandboxRow) => ({
  organizationId,
  requestedBy: "system:host-loss",
  deadlineMs: RESTORE_DEADLINE_MS,
  exemptFromQuotas: true,
});

function lossOf(hostId: string, { createdAt, generation, hasMemory }: SnapshotRow): Cause {
  const ageSeconds = Math.round((Date.now() - createdAt.getTime()) / 1000);
  const goesOn = hasMemory
    ? `resumed on another one from its snapshot ${generation}`
    : `started on another one from its snapshot ${generation}, its disk alone,`;
  return {
    code: "HOST_LOST",
    message: `Host ${hostId} is lost. The sandbox is ${goesOn} of ${createdAt.toISOString()}, ${ageSeconds} s ago; what it did after that is lost.`,
  };
}
