/**
 * Begins a waiting operation: decides from the rows, then writes the sandbox's move, the operation, the incarnation and the command in one transaction.
 *
 * Called by the intents consumer, after each settled observation, and by a reconciler; any of them may come first, twice, or never: what the rows say decides.
 */
import { subjects } from "@torpor/contracts";
import {
  explainOperation,
  findOpenOperations,
  findOperation,
  findSandboxRow,
  findSnapshot,
  type HostRow,
  inTransaction,
  insertIncarnation,
  listLeasedHosts,
  moveOperation,
  moveSandbox,
  type MoveResult,
  type OperationRow,
  type SandboxRow,
  type SnapshotRow,
} from "@torpor/db";
import { transitionSandbox } from "@torpor/state-machine";
import { commandFor } from "./commands.ts";
import type { Begun, Deps } from "./deps.ts";
import { place, type PlacementRequest } from "./placement.ts";
import { finishDelete } from "./delete-sandbox.ts";

/** A lost race is decided again from fresh rows; so often at most. */
const MAX_ATTEMPTS = 10;

export async function beginOperation(deps: Deps, operationId: string): Promise<Begun> {
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
    const operation = await findOperation(deps.db, operationId);
    if (operation === undefined || operation.status !== "waiting") return { kind: "nothing" };
    const sandbox = await findSandboxRow(deps.db, operation.sandboxId);
    if (sandbox === undefined) throw new Error(`operation ${operationId} names sandbox ${operation.sandboxId}, which does not exist`);
    const begun = await beginOnce(deps, operation, sandbox);
    if (begun !== "again") return begun;
  }
  return { kind: "waits" };
}

async function beginOnce(deps: Deps, operation: OperationRow, sandbox: SandboxRow): Promise<Begun | "again"> {
  const { executing } = await findOpenOperations(deps.db, sandbox.id);
  if (operation.kind === "delete") return await finishDelete(deps, operation, sandbox, executing);
  if (executing !== undefined) return { kind: "waits" };
  if (operation.kind === "create") {
    return sandbox.state === "creating"
      ? await assign(deps, operation, sandbox, undefined)
      : await endWithout(deps, operation, sandbox, "refused");
  }
  const transition = transitionSandbox(sandbox.state, operation.kind);
  if (transition.kind === "stay") return await endWithout(deps, operation, sandbox, "satisfied");
  if (transition.kind === "refuse") return await endWithout(deps, operation, sandbox, "refused");
  return await assign(deps, operation, sandbox, await findSnapshot(deps.db, sandbox.id));
}

/** The sandbox changed between the acceptance and now: it is already there, or can no longer get there. */
async function endWithout(
  deps: Deps,
  operation: OperationRow,
  sandbox: SandboxRow,
  how: "satisfied" | "refused",
): Promise<Begun | "again"> {
  const error = { code: "CONFLICT", message: `The sandbox became ${sandbox.state} before the ${operation.kind} could begin.` };
  const result = await inTransaction<MoveResult | null, MoveResult>(deps.db, async (tx, rollback) => {
    const ended = await (how === "satisfied"
      ? moveOperation(tx, operation.id, "succeed")
      : moveOperation(tx, operation.id, "fail", { error }));
    if (ended === undefined) return null;
    const moved = await moveSandbox(tx, {
      sandbox,
      to: sandbox.state,
      fact: `${operation.kind}_${how}`,
      operation: { id: ended.id, status: ended.status },
      ...(how === "refused" ? { cause: error } : {}),
    });
    return moved.kind === "moved" ? moved : rollback(moved);
  });
  if (result === null) return { kind: "nothing" };
  if (result.kind !== "moved") return "again";
  await deps.publishCommitted(result.outboxIds);
  return { kind: "ended" };
}

interface Assignment {
  hostId: string;
  /** Data plane of the host that holds what is to be brought to `hostId`, while that host lives. */
  sourceUrl?: string | undefined;
  /** A new run of a VMM, or a new place: the epoch rises, and what comes late for the old one is known by it. */
  isIncarnation: boolean;
  holdsMemory: boolean;
}

async function assign(
  deps: Deps,
  operation: OperationRow,
  sandbox: SandboxRow,
  snapshot: SnapshotRow | undefined,
): Promise<Begun | "again"> {
  const assignment = await choose(deps, operation, sandbox, snapshot);
  if (assignment === undefined) return { kind: "waits" };
  const epoch = sandbox.epoch + (assignment.isIncarnation ? 1 : 0);
  const opSeq = sandbox.opSeq + 1;
  const transition =
    operation.kind === "create" ? undefined : transitionSandbox(sandbox.state, operation.kind as Exclude<typeof operation.kind, "create">);
  const to = transition?.kind === "move" ? transition.to : "creating";
  const result = await inTransaction<MoveResult, MoveResult | null>(deps.db, async (tx, rollback) => {
    const startedAt = new Date();
    const begun = await moveOperation(tx, operation.id, "begin", {
      hostId: assignment.hostId,
      originHostId: sandbox.hostId,
      epoch,
      opSeq,
      startedAt,
    });
    if (begun === undefined) return rollback(null);
    if (assignment.isIncarnation) await insertIncarnation(tx, { sandboxId: sandbox.id, epoch, hostId: assignment.hostId });
    const { hostId, sourceUrl } = assignment;
    const command = commandFor(begun, sandbox, { hostId, epoch, opSeq, snapshot, sourceUrl });
    const moved = await moveSandbox(tx, {
      sandbox,
      to,
      fact: `${operation.kind}_assigned`,
      patch: { epoch, opSeq, hostId: assignment.hostId, holdsMemory: assignment.holdsMemory },
      operation: { id: operation.id, status: begun.status },
      messages: [{ subject: subjects.command(assignment.hostId, command.kind), payload: command, traceId: operation.traceId ?? undefined }],
    });
    return moved.kind === "moved" ? moved : rollback(moved);
  });
  if (result === null) return { kind: "nothing" };
  if (result.kind !== "moved") return "again";
  deps.log.info(
    { sandboxId: sandbox.id, operationId: operation.id, kind: operation.kind, hostId: assignment.hostId, epoch, opSeq },
    "operation began",
  );
  await deps.publishCommitted(result.outboxIds);
  return { kind: "begun" };
}

/** Pause and stop happen where the sandbox is; the others are placed, and so is a stop of what the store alone holds. */
async function choose(
  deps: Deps,
  operation: OperationRow,
  sandbox: SandboxRow,
  snapshot: SnapshotRow | undefined,
): Promise<Assignment | undefined> {
  // An unsynced snapshot has to run once more to save its files, so it needs its memory back.
  const needsMemory = sandbox.settledState === "running" || snapshot?.guestSynced === false;
  const isSaved = operation.kind === "pause" || operation.kind === "stop";
  if (isSaved && sandbox.hostId !== null) return { hostId: sandbox.hostId, isIncarnation: false, holdsMemory: needsMemory };
  const hosts = await listLeasedHosts(deps.db);
  const origin = hosts.find(({ id }) => id === sandbox.hostId);
  const request = placementRequest(operation, sandbox, snapshot, origin);
  let placement = place(hosts, request);
  // What its host alone has goes on there even when that takes nothing new.
  if (placement.kind === "rejected" && origin !== undefined && snapshot?.storeKey === null)
    placement = place(hosts, { ...request, pinnedHostId: origin.id });
  if (placement.kind === "placed") {
    const { id: hostId } = placement.host;
    const sourceUrl = origin === undefined || origin.id === hostId ? undefined : origin.dataPlaneUrl;
    return { hostId, sourceUrl, isIncarnation: true, holdsMemory: !isSaved || needsMemory };
  }
  const explain = { hosts: placement.hosts, reasons: placement.reasons, message: placement.message };
  await explainOperation(deps.db, operation.id, explain);
  deps.log.info({ sandboxId: sandbox.id, operationId: operation.id, ...explain }, "operation waits for capacity");
  return undefined;
}

/** `origin`: the host that holds the sandbox, if it lives. A snapshot is fetched straight from there; where it is gone, and for the disk of a stopped sandbox, the store has to have it. */
function placementRequest(
  operation: OperationRow,
  sandbox: SandboxRow,
  snapshot: SnapshotRow | undefined,
  origin: HostRow | undefined,
): PlacementRequest {
  const need = { vcpu: sandbox.vcpu, memoryMib: sandbox.memoryMib, diskMib: sandbox.diskMib, imageSha256: sandbox.imageSha256 };
  if (operation.kind === "create") return { ...need, region: sandbox.region };
  const local = sandbox.hostId ?? undefined;
  const canMove = snapshot !== undefined && (snapshot.storeKey !== null || (operation.kind === "resume" && origin !== undefined));
  return {
    ...need,
    localHostId: local,
    ...(canMove ? {} : { pinnedHostId: local }),
    ...(operation.kind !== "start" && snapshot !== undefined ? { driverFingerprint: snapshot.driverFingerprint } : {}),
  };
}
