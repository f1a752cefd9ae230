/**
 * Compares the whole inventory of a host with the database.
 *
 * RI1  Nothing is concluded from a part of an inventory: its digest says when it is whole.
 * RI2  A sandbox that its host does not have is said to be missing once several inventories in a row are without it, and keeps its state: nobody knows where it is.
 * RI3  A finding ends by itself when it is no longer so.
 */
import { BEAT_EVERY_MS, type Heartbeat, MAX_INVENTORY_PER_BEAT, type SandboxCondition } from "@torpor/contracts";
import {
  type AbsentSandbox,
  changeSandbox,
  completeInventory,
  endMissingFindings,
  endStrayFindings,
  findSandboxRow,
  type FindingRow,
  listAbsentSandboxes,
  listFindingsOf,
  recordFinding,
  reportFinding,
} from "@torpor/db";
import { FOUND_ON_HOST } from "@torpor/plans";
import type { Deps } from "../deps.ts";

/** Inventories in a row, and time, without a sandbox: one may have been on its way while the sandbox came. */
const MISSING_TIMES = 3;
const MISSING_MS = 5_000;
/** A copy that a host does not show for so long is not there. Longer for one whose inventory takes several beats. */
const UNSEEN_MS = 10_000;

export async function reconcileInventory(deps: Deps, beat: Heartbeat): Promise<void> {
  const { hostId, inventoryCount: count, inventoryDigest: digest } = beat;
  const inventory = await completeInventory(deps.db, { hostId, entries: beat.inventory, count, digest });
  if (inventory === undefined) return;
  const absent = await listAbsentSandboxes(deps.db, hostId, inventory);
  for (const sandbox of absent) if (!sandbox.isBusy) await noteMissing(deps, hostId, sandbox);
  await endMissing(deps, hostId, absent);
  const turnMs = 2 * BEAT_EVERY_MS * Math.ceil(count / MAX_INVENTORY_PER_BEAT);
  for (const { sandboxId, kind } of await endStrayFindings(deps.db, hostId, UNSEEN_MS + turnMs))
    deps.log.info({ hostId, sandboxId, kind }, "a finding is over");
}

async function noteMissing(deps: Deps, hostId: string, { id, organizationId, state, epoch }: AbsentSandbox): Promise<void> {
  const message =
    `Host ${hostId} does not have this sandbox any more, although it was ${state} there. Its files may have been removed on the host, or its disk exchanged. ` +
    "The sandbox is itself again when the host shows it again; delete it when it is not needed.";
  const finding = await recordFinding(deps.db, { hostId, sandboxId: id, kind: "missing", message, epoch });
  const isSure = finding.timesSeen >= MISSING_TIMES && Date.now() - finding.firstSeenAt.getTime() >= MISSING_MS;
  if (!isSure || !(await reportFinding(deps.db, finding))) return;
  deps.log.error({ hostId, sandboxId: id, state, epoch }, "a host has lost a sandbox");
  await setCondition(deps, { id, organizationId }, hostId, "missing_on_host", { code: "host_lost_sandbox", message });
  // Another scheduler may have seen it again meanwhile, and found no condition yet.
  const isMissing = (await listFindingsOf(deps.db, hostId, "missing")).some(({ sandboxId }) => sandboxId === id);
  if (!isMissing) await clearCondition(deps, finding);
}

/** Those that the host shows again, and those that are no longer said to be there. */
async function endMissing(deps: Deps, hostId: string, absent: AbsentSandbox[]): Promise<void> {
  const missing = new Set(absent.map(({ id }) => id));
  const over = (await listFindingsOf(deps.db, hostId, "missing")).filter(({ sandboxId }) => !missing.has(sandboxId));
  const ended = await endMissingFindings(
    deps.db,
    hostId,
    over.map(({ sandboxId }) => sandboxId),
  );
  for (const finding of ended) await clearCondition(deps, finding);
}

async function clearCondition(deps: Deps, { hostId, sandboxId }: FindingRow): Promise<void> {
  const sandbox = await findSandboxRow(deps.db, sandboxId);
  if (sandbox?.condition?.code !== "host_lost_sandbox") return;
  deps.log.info({ hostId, sandboxId }, "a sandbox that was missing is there again");
  await setCondition(deps, sandbox, hostId, FOUND_ON_HOST, null);
}

async function setCondition(
  deps: Deps,
  { id, organizationId }: { id: string; organizationId: number },
  hostId: string,
  fact: string,
  condition: SandboxCondition | null,
): Promise<void> {
  const changed = await changeSandbox(deps.db, id, organizationId, (sandbox) =>
    sandbox.hostId === hostId && (condition !== null || sandbox.condition?.code === "host_lost_sandbox")
      ? { fact, patch: { condition }, ...(condition === null ? {} : { cause: condition }) }
      : undefined,
  );
  if (changed !== undefined) await deps.publishCommitted(changed.messages);
}
