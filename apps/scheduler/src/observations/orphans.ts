/**
 * Orphans: copies of sandboxes that the database does not know, or knows at a higher epoch
 * elsewhere. A running orphan is quarantined (vCPUs paused, cut off) and reported as a finding of
 * its host. A copy that is not proven stale (command-foreign-copy.ts) is discarded only when an
 * operator requests that. No VM is killed on a guess.
 */
import { type Observation, subjects } from "@torpor/contracts";
import {
  type FindingKind,
  insertOutbox,
  mayRecordFinding,
  mayTellHost,
  recordFinding,
  reportFinding,
} from "@torpor/db";
import { orphanCommand } from "@torpor/plans";
import { thisMoment } from "../decide.ts";
import type { Deps } from "../deps.ts";

/** Time after which a host that has not done what was commanded gets the command again. */
const TELL_EVERY_MS = 5_000;

/** `discardEpoch`: the epoch up to which copies may be discarded, if an operator requests that. */
export async function reportOrphan(
  deps: Deps,
  seen: Observation,
  orphan: { kind: Exclude<FindingKind, "missing">; why: string; discardEpoch: number },
): Promise<void> {
  if (seen.busyWith !== undefined || seen.state === "deleted" || seen.state === "failed") return;
  const { hostId, sandboxId, epoch } = seen;
  if (!(await mayRecordFinding(deps.db, hostId, sandboxId))) {
    deps.log.debug({ hostId, sandboxId }, "finding not kept: the host has too many");
    return;
  }
  const quarantined = seen.quarantined === true;
  const message = `${orphan.why} ${whatIsDone(seen)}`;
  const finding = await recordFinding(deps.db, {
    hostId,
    sandboxId,
    kind: orphan.kind,
    message,
    epoch,
    quarantined,
  });
  if (await reportFinding(deps.db, finding))
    deps.log.warn(
      { hostId, sandboxId, epoch, state: seen.state, reason: message },
      "orphaned sandbox found",
    );
  const isWanted = finding.discardRequestedBy === null;
  if (isWanted && (seen.state !== "running" || quarantined)) return;
  if (!(await mayTellHost(deps.db, hostId, sandboxId, TELL_EVERY_MS))) return;
  await tell(
    deps,
    isWanted ? "quarantine" : "discard",
    isWanted ? seen : { ...seen, epoch: orphan.discardEpoch },
  );
}

/** Ends the quarantine of a copy whose sandbox is known here again. */
export async function endQuarantine(deps: Deps, seen: Observation): Promise<void> {
  if (seen.busyWith === undefined) await tell(deps, "unquarantine", seen);
}

async function tell(
  deps: Deps,
  kind: "quarantine" | "unquarantine" | "discard",
  seen: Observation,
): Promise<void> {
  const { hostId, sandboxId, epoch, opSeq } = seen;
  const message = {
    subject: subjects.command(hostId, kind),
    payload: orphanCommand(kind, seen, thisMoment()),
  };
  await deps.publishCommitted(await insertOutbox(deps.db, [message]));
  deps.log.info({ hostId, sandboxId, epoch, opSeq, kind }, "command sent for an orphaned sandbox");
}

function whatIsDone({ state, quarantined }: Observation): string {
  if (state !== "running") return `It is ${state} there and is left alone.`;
  return quarantined === true
    ? "Its VM is frozen and cut off."
    : "Its VM is to be frozen and cut off.";
}
