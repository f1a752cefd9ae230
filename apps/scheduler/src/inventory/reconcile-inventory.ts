/**
 * Compares what a host has with what the database says it has.
 *
 * RI1  That a sandbox is absent is concluded from a whole inventory, whose digest says when it
 *      is one, or from the host's word that it has not got it; never from a part.
 * RI2  A sandbox that its host does not have is said to be missing once several beats in a row
 *      are without it, and keeps its state: nobody knows where it is.
 * RI3  A finding ends by itself when it is no longer so.
 * RI4  What agrees is not compared again, until the sandbox comes or leaves, its host shows it
 *      changed, or a whole inventory is due; what does not is, with every beat (HB2, HB3).
 */
import {
  BEAT_EVERY_MS,
  type Heartbeat,
  type InventoryEntry,
  MAX_INVENTORY_PER_BEAT,
  type SandboxCondition,
  type SandboxEventType,
} from "@torpor/contracts";
import {
  type AbsentSandbox,
  changeSandbox,
  type InventoryComparison,
  completeInventory,
  endMissingFindings,
  endOrphanFindings,
  findAbsentSandboxes,
  findSandboxRow,
  type FindingRow,
  type InventoryProgress,
  listAbsentSandboxes,
  listFindingsOf,
  MAX_CHECKS,
  recordFinding,
  reportFinding,
} from "@torpor/db";
import { FOUND_ON_HOST } from "@torpor/plans";
import type { Deps } from "../deps.ts";

/**
 * Beats in a row, and time, without a sandbox: one may have been on its way while the sandbox came.
 */
const MISSING_TIMES = 3;
const MISSING_MS = 5_000;
/**
 * A copy that a host does not show for so long is not there. Longer for one whose inventory takes
 * several beats.
 */
const UNSEEN_MS = 10_000;

/** Nothing has changed since host and database agreed on everything. */
export function isReconciled(
  { inventoryDigest, inventory, gone = [], inventorySince }: Heartbeat,
  standing: InventoryProgress,
): boolean {
  if (inventoryDigest !== standing.reconciled || standing.checks.length > MAX_CHECKS) return false;
  // A host that knows nothing of checks shows everything with each beat.
  return (
    standing.checks.length === 0 ||
    (inventorySince !== undefined && inventory.length + gone.length === 0)
  );
}

/**
 * `open`: sandboxes of the beat about which there is still something to say. `standing`: as it was
 * before the beat was looked at.
 */
export async function reconcileInventory(
  deps: Deps,
  beat: Heartbeat,
  standing: InventoryProgress,
  open: string[],
): Promise<InventoryComparison> {
  return beat.inventorySince === undefined
    ? await reconcileWhole(deps, beat, standing, open)
    : await reconcileChanges(deps, beat, standing, open);
}

async function reconcileChanges(
  deps: Deps,
  beat: Heartbeat,
  standing: InventoryProgress,
  open: string[],
): Promise<InventoryComparison> {
  const { hostId, inventory, gone = [], inventorySince: since, inventoryDigest: digest } = beat;
  const absent = await findAbsentSandboxes(deps.db, hostId, gone);
  const reported = new Set([...idsIn(inventory), ...gone]);
  if (standing.checks.length > 0 || absent.length > 0)
    await noteAbsence(deps, beat, absent, (sandboxId) => reported.has(sandboxId));
  return {
    hostId,
    since,
    digest,
    ...concluded(standing, [...open, ...idsOf(absent)], (sandboxId) => reported.has(sandboxId)),
  };
}

async function reconcileWhole(
  deps: Deps,
  beat: Heartbeat,
  standing: InventoryProgress,
  open: string[],
): Promise<InventoryComparison> {
  const { hostId, inventory: entries, inventoryCount: count, inventoryDigest: digest } = beat;
  const shown = new Set(idsIn(entries));
  const whole = await completeInventory(deps.db, { hostId, entries, count, digest });
  if (whole === undefined)
    return {
      hostId,
      since: undefined,
      digest: undefined,
      ...concluded(standing, open, (id) => shown.has(id)),
    };
  const absent = await listAbsentSandboxes(deps.db, hostId, whole);
  await noteAbsence(deps, beat, absent, () => true);
  const inOtherParts = new Set(idsIn(whole).filter((id) => !shown.has(id)));
  return {
    hostId,
    since: undefined,
    digest,
    ...concluded(standing, [...open, ...idsOf(absent)], (id) => !inOtherParts.has(id)),
  };
}

const idsOf = (sandboxes: AbsentSandbox[]) => sandboxes.map(({ id }) => id);
const idsIn = (entries: InventoryEntry[]) => entries.map(({ sandboxId }) => sandboxId);

/** `isLookedAt`: all that the host says of the sandbox now has been looked at. */
function concluded(
  { checks }: InventoryProgress,
  open: string[],
  isLookedAt: (sandboxId: string) => boolean,
): Pick<InventoryComparison, "ended" | "open"> {
  const left = new Set(open);
  const known = new Set(checks.map(({ sandboxId }) => sandboxId));
  const ended = checks.filter(({ sandboxId }) => isLookedAt(sandboxId) && !left.has(sandboxId));
  return { ended, open: [...left].filter((id) => !known.has(id)) };
}

/** `isKnown`: what the host has said tells whether the sandbox is there. */
async function noteAbsence(
  deps: Deps,
  { hostId, inventoryCount }: Heartbeat,
  absent: AbsentSandbox[],
  isKnown: (sandboxId: string) => boolean,
): Promise<void> {
  const missing = absent.filter(({ isMissing }) => isMissing);
  for (const sandbox of missing) if (!sandbox.isBusy) await noteMissing(deps, hostId, sandbox);
  await endMissing(deps, hostId, missing, isKnown);
  const turnMs = 2 * BEAT_EVERY_MS * Math.ceil(inventoryCount / MAX_INVENTORY_PER_BEAT);
  for (const { sandboxId, kind } of await endOrphanFindings(deps.db, hostId, UNSEEN_MS + turnMs))
    deps.log.info({ hostId, sandboxId, kind }, "a finding is over");
}

async function noteMissing(
  deps: Deps,
  hostId: string,
  { id, organizationId, state, epoch }: AbsentSandbox,
): Promise<void> {
  const message =
    `Host ${hostId} does not have this sandbox any more, although it was ${state} there. Its files may have been removed on the host, or its disk exchanged. ` +
    "The sandbox is itself again when the host shows it again; delete it when it is not needed.";
  const finding = await recordFinding(deps.db, {
    hostId,
    sandboxId: id,
    kind: "missing",
    message,
    epoch,
  });
  const isSure =
    finding.timesSeen >= MISSING_TIMES && Date.now() - finding.firstSeenAt.getTime() >= MISSING_MS;
  if (!isSure || !(await reportFinding(deps.db, finding))) return;
  deps.log.error({ hostId, sandboxId: id, state, epoch }, "a host has lost a sandbox");
  await setCondition(deps, { id, organizationId }, hostId, "missing_on_host", {
    code: "host_lost_sandbox",
    message,
  });
  // Another scheduler may have seen it again meanwhile, and found no condition yet.
  const isMissing = (await listFindingsOf(deps.db, hostId, "missing")).some(
    ({ sandboxId }) => sandboxId === id,
  );
  if (!isMissing) await clearCondition(deps, finding);
}

/** Those that the host shows again, and those that are no longer said to be there. */
async function endMissing(
  deps: Deps,
  hostId: string,
  absent: AbsentSandbox[],
  isKnown: (sandboxId: string) => boolean,
): Promise<void> {
  const missing = new Set(absent.map(({ id }) => id));
  const findings = await listFindingsOf(deps.db, hostId, "missing");
  const over = findings.filter(({ sandboxId }) => isKnown(sandboxId) && !missing.has(sandboxId));
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
  fact: SandboxEventType,
  condition: SandboxCondition | null,
): Promise<void> {
  const changed = await changeSandbox(deps.db, id, organizationId, (sandbox) =>
    sandbox.hostId === hostId &&
    (condition !== null || sandbox.condition?.code === "host_lost_sandbox")
      ? { fact, patch: { condition }, ...(condition === null ? {} : { cause: condition }) }
      : undefined,
  );
  if (changed !== undefined) await deps.publishCommitted(changed.messages);
}
