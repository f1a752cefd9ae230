/**
 * Applies what a host observed (planObservation), and reports what is wrong with an observation
 * that cannot be applied.
 */
import type { Observation, OperationId } from "@torpor/contracts";
import type { Decision, SandboxRows } from "@torpor/db";
import { planObservation } from "@torpor/plans";
import { decide } from "../decide.ts";
import type { Deps } from "../deps.ts";
import { endQuarantine, reportOrphan } from "./orphans.ts";
import { commandForeignCopy } from "./command-foreign-copy.ts";

export type ApplyResult =
  | "applied"
  | "stale"
  | "busy"
  | "foreign"
  | "ahead"
  | "unknown_sandbox"
  | "refused"
  | "nothing_new";

interface Answer {
  settled: ApplyResult;
  view?: SandboxRows;
  to?: string;
}

/** `goOn` gets the operation that waits for a moved sandbox. */
export async function applyObservation(
  deps: Deps,
  seen: Observation,
  goOn: (operationId: OperationId) => Promise<unknown>,
): Promise<ApplyResult> {
  const { sandboxId, epoch } = seen;
  const wanted = { sandboxId, epoch, manifestSha256: seen.snapshot?.manifestSha256 };
  const decided = await decide<Answer>(deps, wanted, (view) => decideFrom(deps, view, seen));
  if (decided === "gave_up")
    throw new Error(
      `the observation of sandbox ${sandboxId} could not be applied: its row kept changing`,
    );
  const { answer, applied } = decided;
  await report(deps, seen, answer);
  const waiting = applied?.kind === "applied" ? applied.waitingOperationId : null;
  if (answer.settled === "applied" && waiting !== null) await goOn(waiting);
  return answer.settled;
}

async function decideFrom(
  deps: Deps,
  view: SandboxRows | undefined,
  seen: Observation,
): Promise<Decision<Answer>> {
  if (view === undefined) return { answer: { settled: "unknown_sandbox" } };
  const { sandbox } = view;
  const isOwn = sandbox.hostId === seen.hostId;
  if (isOwn && seen.quarantined === true && seen.epoch >= sandbox.epoch)
    await endQuarantine(deps, seen);
  const decision = planObservation(view, seen, new Date());
  switch (decision.kind) {
    case "plan":
      return { plan: decision.plan, answer: { settled: "applied", view, to: decision.to } };
    case "stale":
      if (decision.plan === undefined) return { answer: { settled: "stale" } };
      return { plan: decision.plan, answer: { settled: "applied", view, to: sandbox.state } };
    case "foreign":
      return { plan: decision.plan, answer: { settled: "foreign", view } };
    default:
      return { answer: { settled: decision.kind, view } };
  }
}

async function report(deps: Deps, seen: Observation, { settled, view, to }: Answer): Promise<void> {
  const { sandboxId, hostId, epoch, opSeq, operation, cause } = seen;
  const discardEpoch = epoch + 1;
  if (view === undefined) {
    if (settled !== "unknown_sandbox") return;
    const why = `The database knows no sandbox ${sandboxId}.`;
    await reportOrphan(deps, seen, { kind: "unknown", why, discardEpoch });
    return;
  }
  const { sandbox } = view;
  switch (settled) {
    case "applied": {
      const facts = { sandboxId, hostId, from: sandbox.state, to, epoch, opSeq, operation, cause };
      deps.log.info(facts, "observation applied");
      return;
    }
    case "foreign":
      await commandForeignCopy(deps, view, seen);
      return;
    case "ahead": {
      const why =
        `The database has given out epoch ${sandbox.epoch} and command ${sandbox.opSeq} of sandbox ${sandboxId}; ` +
        `its host speaks of ${epoch} and ${opSeq}. Was the database restored from a backup?`;
      await reportOrphan(deps, seen, { kind: "unknown", why, discardEpoch });
      return;
    }
    case "refused": {
      const facts = { sandboxId, hostId, state: sandbox.state, observed: seen.state, cause };
      deps.log.error(facts, "observation refused");
      return;
    }
    case "stale":
    case "busy":
    case "unknown_sandbox":
    case "nothing_new":
  }
}
