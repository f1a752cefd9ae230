/**
 * Commands a host what to do with a copy of a sandbox that belongs to another host, or to no host
 * any more.
 */
import { type Observation, subjects } from "@torpor/contracts";
import { insertOutbox, type SandboxRows } from "@torpor/db";
import { judgeForeign, systemCommand } from "@torpor/plans";
import { thisMoment } from "../decide.ts";
import type { Deps } from "../deps.ts";
import { reportOrphan } from "./orphans.ts";

export async function commandForeignCopy(
  deps: Deps,
  view: SandboxRows,
  seen: Observation,
): Promise<void> {
  const { sandbox } = view;
  const { hostId, epoch: itsEpoch } = seen;
  const { id: sandboxId, epoch, hostId: at } = sandbox;
  const facts = { sandboxId, hostId, itsEpoch, epoch, at };
  const decision = judgeForeign(view, seen, new Date());
  if (decision.kind === "keep") {
    const level = seen.state === "running" ? "warn" : "debug";
    deps.log[level](facts, "a host holds a sandbox of another host; it is kept");
    if (decision.report !== undefined) await reportOrphan(deps, seen, decision.report);
    return;
  }
  deps.log.info({ ...facts, why: decision.why }, "stale copy discarded");
  const payload = {
    ...systemCommand("discard", sandbox, hostId, thisMoment()),
    epoch: Math.max(epoch, itsEpoch),
  };
  const command = { subject: subjects.command(hostId, "discard"), payload };
  await deps.publishCommitted(await insertOutbox(deps.db, [command]));
}
