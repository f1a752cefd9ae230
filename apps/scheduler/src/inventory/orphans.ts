/**
 * Copies of sandboxes that should not be where they are: of a sandbox that the database does not
 * know, or knows at a higher epoch elsewhere. A VM of one is frozen and cut off, reported as a
 * finding of its host, and left so: what is not proven stale (command-foreign-copy.ts) is discarded
 * only when an operator says so. Never killed on a guess.
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

/** A host that does not do what it was told is told again. */
const TELL_EVERY_MS = 5_000;

/**
 * `discardEpoch`: the epoch up to which copies of it may be discarded, if an operator wants that.
 */
export async function reportOrphan(
  deps: Deps,
  seen: Observation,
  stray: { kind: Exclude<FindingKind, "missing">; why: string; discardEpoch: number },
): Promise<void> {
  if (seen.busyWith !== undefined || seen.state === "deleted" || seen.state === "failed") return;
  const { hostId, sandboxId, epoch } = seen;
  if (!(await mayRecordFinding(deps.db, hostId, sandboxId))) {
    deps.log.debug(
      { hostId, sandboxId },
      "a host has more findings than are kept; this one is not",
    );
    return;
  }
  const quarantined = seen.quarantined === true;
  const message = `${stray.why} ${whatIsDone(seen)}`;
  const finding = await recordFinding(deps.db, {
    hostId,
    sandboxId,
    kind: stray.kind,
    message,
    epoch,
    quarantined,
  });
  if (await reportFinding(deps.db, finding))
    deps.log.warn(
      { hostId, sandboxId, epoch, state: seen.state, reason: message },
      "a stray sandbox",
    );
  const isWanted = finding.discardRequestedBy === null;
  if (isWanted && (seen.state !== "running" || quarantined)) return;
  if (!(await mayTellHost(deps.db, hostId, sandboxId, TELL_EVERY_MS))) return;
  await tell(
    deps,
    isWanted ? "quarantine" : "discard",
    isWanted ? seen : { ...seen, epoch: stray.discardEpoch },
  );
}

/** Its sandbox is known here again. */
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
  deps.log.info({ hostId, sandboxId, epoch, opSeq, kind }, "a host is told about a stray sandbox");
}

function whatIsDone({ state, quarantined }: Observation): string {
  if (state !== "running") return `It is ${state} there and is left alone.`;
  return quarantined === true
    ? "Its VM is frozen and cut off."
    : "Its VM is to be frozen and cut off.";
}
