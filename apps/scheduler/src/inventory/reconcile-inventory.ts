/**
 * Compares what a host has with what the database records for it.
 *
 * RI1  Absence is concluded from a whole inventory, which its digest proves to be whole, or from
 *      the host's report that it does not have the sandbox; never from a part.
 * RI2  A sandbox that its host does not have is reported as missing after several heartbeats in a
 *      row without it, and keeps its state: it is unknown where the sandbox is.
 * RI3  A finding ends by itself when it no longer holds.
 * RI4  What agrees is not compared again, until the sandbox comes or leaves, its host shows it
 *      changed, or a whole inventory is due. What disagrees is compared with every heartbeat (HB2,
 *      HB3).
 */
import {
  type Heartbeat,
  HEARTBEAT_EVERY_MS,
  type HostId,
  type InventoryEntry,
  MAX_INVENTORY_PER_HEARTBEAT,
  type SandboxCondition,
  type SandboxEventType,
  type SandboxId,
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
 * Heartbeats in a row, and time, without a sandbox: one heartbeat may have been on its way while
 * the sandbox came.
 */
const MISSING_TIMES = 3;
const MISSING_MS = 5_000;
/**
 * Time after which a copy that its host does not show is gone. Longer for a host whose inventory
 * takes several heartbeats.
 */
const UNSEEN_MS = 10_000;

/** True if nothing has changed since host and database agreed on everything. */
export function isReconciled(
  { inventoryDigest, inventory, gone = [], inventorySince }: Heartbeat,
  standing: InventoryProgress,
): boolean {
  if (inventoryDigest !== standing.reconciled || standing.checks.length > MAX_CHECKS) return false;
  // A host that does not support checks shows everything with each heartbeat.
  return (
    standing.checks.length === 0 ||
    (inventorySince !== undefined && inventory.length + gone.length === 0)
  );
}

/**
 * `open`: sandboxes of the heartbeat that need more work. `standing`: the progress from before the
 * heartbeat was compared.
 */
export async function reconcileInventory(
  deps: Deps,
  heartbeat: Heartbeat,
  standing: InventoryProgress,
  open: SandboxId[],
): Promise<InventoryComparison> {
  return heartbeat.inventorySince === undefined
    ? await reconcileWhole(deps, heartbeat, standing, open)
    : await reconcileChanges(deps, heartbeat, standing, open);
}

async function reconcileChanges(
  deps: Deps,
  heartbeat: Heartbeat,
  standing: InventoryProgress,
  open: SandboxId[],
): Promise<InventoryComparison> {
  const {
    hostId,
    inventory,
    gone = [],
    inventorySince: since,
    inventoryDigest: digest,
  } = heartbeat;
  const absent = await findAbsentSandboxes(deps.db, hostId, gone);
  const reported = new Set([...idsIn(inventory), ...gone]);
  if (standing.checks.length > 0 || absent.length > 0)
    await noteAbsence(deps, heartbeat, absent, (sandboxId) => reported.has(sandboxId));
  return {
    hostId,
    since,
    digest,
    ...concluded(standing, [...open, ...idsOf(absent)], (sandboxId) => reported.has(sandboxId)),
  };
}

async function reconcileWhole(
  deps: Deps,
  heartbeat: Heartbeat,
  standing: InventoryProgress,
  open: SandboxId[],
): Promise<InventoryComparison> {
  const { hostId, inventory: entries, inventoryCount: count, inventoryDigest: digest } = heartbeat;
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
  await noteAbsence(deps, heartbeat, absent, () => true);
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

/** `isLookedAt`: all that the host reports of the sandbox now has been compared. */
function concluded(
  { checks }: InventoryProgress,
  open: SandboxId[],
  isLookedAt: (sandboxId: SandboxId) => boolean,
): Pick<InventoryComparison, "ended" | "open"> {
  const left = new Set(open);
  const known = new Set(checks.map(({ sandboxId }) => sandboxId));
  const ended = checks.filter(({ sandboxId }) => isLookedAt(sandboxId) && !left.has(sandboxId));
  return { ended, open: [...left].filter((id) => !known.has(id)) };
}

/** `isKnown`: the host's report shows whether the sandbox is there. */
async function noteAbsence(
  deps: Deps,
  { hostId, inventoryCount }: Heartbeat,
  absent: AbsentSandbox[],
  isKnown: (sandboxId: SandboxId) => boolean,
): Promise<void> {
  const missing = absent.filter(({ isMissing }) => isMissing);
  for (const sandbox of missing) if (!sandbox.isBusy) await noteMissing(deps, hostId, sandbox);
  await endMissing(deps, hostId, missing, isKnown);
  const turnMs = 2 * HEARTBEAT_EVERY_MS * Math.ceil(inventoryCount / MAX_INVENTORY_PER_HEARTBEAT);
  for (const { sandboxId, kind } of await endOrphanFindings(deps.db, hostId, UNSEEN_MS + turnMs))
    deps.log.info({ hostId, sandboxId, kind }, "finding ended");
}

async function noteMissing(
  deps: Deps,
  hostId: HostId,
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
  deps.log.error({ hostId, sandboxId: id, state, epoch }, "sandbox missing on its host");
  await setCondition(deps, { id, organizationId }, hostId, "missing_on_host", {
    code: "host_lost_sandbox",
    message,
  });
  // Another scheduler may have seen the sandbox again meanwhile, before the condition was set.
  const isMissing = (await listFindingsOf(deps.db, hostId, "missing")).some(
    ({ sandboxId }) => sandboxId === id,
  );
  if (!isMissing) await clearCondition(deps, finding);
}

/**
 * Ends findings about sandboxes that the host shows again, or that are not expected there any more.
 */
async function endMissing(
  deps: Deps,
  hostId: HostId,
  absent: AbsentSandbox[],
  isKnown: (sandboxId: SandboxId) => boolean,
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
  deps.log.info({ hostId, sandboxId }, "missing sandbox found again");
  await setCondition(deps, sandbox, hostId, FOUND_ON_HOST, null);
}

async function setCondition(
  deps: Deps,
  { id, organizationId }: { id: SandboxId; organizationId: number },
  hostId: HostId,
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
