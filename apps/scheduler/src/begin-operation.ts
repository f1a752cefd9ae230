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
  inTransaction,
  insertIncarnation,
  isAsPlaced,
  listHostsOfKey,
  lockAntiAffinity,
  moveOperation,
  moveSandbox,
  type MoveResult,
  type OperationRow,
  type SandboxRow,
  type SnapshotRow,
  type Tx,
} from "@torpor/db";
import { type Placement, requestToCreate, requestToReturn } from "@torpor/placement";
import { transitionSandbox } from "@torpor/state-machine";
import { commandFor, type SnapshotSource } from "./commands.ts";
import type { Begun, Deps } from "./deps.ts";
import { finishDelete } from "./delete-sandbox.ts";
import { environmentOf, type StoredCommand } from "./environment.ts";

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

type Placed = Extract<Placement, { kind: "placed" }>;

interface Assignment {
  hostId: string;
  /** The host that holds what is to be brought to `hostId`, while it lives. */
  source?: SnapshotSource | undefined;
  /** Of a new run of a VMM, or a new place: the epoch rises, and what comes late for the old one is known by it. Without one it happens where the sandbox is. */
  placement?: Placed;
  holdsMemory: boolean;
}

/** The choice no longer holds: its host or the sandboxes on it have changed since. */
const OVERTAKEN = { kind: "overtaken" } as const;

async function assign(
  deps: Deps,
  operation: OperationRow,
  sandbox: SandboxRow,
  snapshot: SnapshotRow | undefined,
): Promise<Begun | "again"> {
  const assignment = await choose(deps, operation, sandbox, snapshot);
  if (assignment === undefined) return { kind: "waits" };
  const placed = assignment.placement?.host;
  const epoch = sandbox.epoch + (placed === undefined ? 0 : 1);
  const opSeq = sandbox.opSeq + 1;
  const transition =
    operation.kind === "create" ? undefined : transitionSandbox(sandbox.state, operation.kind as Exclude<typeof operation.kind, "create">);
  const to = transition?.kind === "move" ? transition.to : "creating";
  const environment = operation.kind === "create" ? await environmentOf(deps, sandbox) : { envVars: {} };
  if (environment === undefined) return { kind: "waits" };
  const { envVars, ...sealed } = environment;
  const result = await inTransaction<MoveResult, MoveResult | typeof OVERTAKEN | null>(deps.db, async (tx, rollback) => {
    if (placed !== undefined && !(await isSeparate(tx, sandbox, placed.id))) return rollback(OVERTAKEN);
    const startedAt = new Date();
    const begun = await moveOperation(tx, operation.id, "begin", {
      hostId: assignment.hostId,
      originHostId: sandbox.hostId,
      epoch,
      opSeq,
      startedAt,
    });
    if (begun === undefined) return rollback(null);
    if (placed !== undefined)
      await insertIncarnation(tx, { sandboxId: sandbox.id, epoch, hostId: assignment.hostId, onHostLoss: sandbox.onHostLoss });
    const { hostId, source } = assignment;
    const brought = placed === undefined ? undefined : snapshot;
    const command = commandFor(begun, sandbox, { hostId, epoch, opSeq, snapshot: brought, source });
    const stored: StoredCommand = { ...command, spec: { ...command.spec, envVars }, ...sealed };
    const moved = await moveSandbox(tx, {
      sandbox,
      to,
      fact: `${operation.kind}_assigned`,
      patch: {
        epoch,
        opSeq,
        hostId,
        originHostId: hostId === sandbox.hostId ? null : sandbox.hostId,
        holdsMemory: assignment.holdsMemory,
      },
      operation: { id: operation.id, status: begun.status },
      messages: [{ subject: subjects.command(assignment.hostId, command.kind), payload: stored, traceId: operation.traceId ?? undefined }],
    });
    if (moved.kind !== "moved") return rollback(moved);
    return placed === undefined || (await isAsPlaced(tx, placed)) ? moved : rollback(OVERTAKEN);
  });
  if (result === null) return { kind: "nothing" };
  if (result.kind !== "moved") {
    if (result.kind !== "lost_race") deps.placer.forget();
    return "again";
  }
  deps.log.info(
    {
      sandboxId: sandbox.id,
      operationId: operation.id,
      kind: operation.kind,
      hostId: assignment.hostId,
      epoch,
      opSeq,
      passedOver: assignment.placement?.reasons,
    },
    "operation began",
  );
  await deps.publishCommitted(result.outboxIds);
  return { kind: "begun" };
}

/** Whether its anti-affinity key lets it be brought to that host, from now until the transaction ends. */
async function isSeparate(tx: Tx, sandbox: SandboxRow, hostId: string): Promise<boolean> {
  if (sandbox.antiAffinity === null || sandbox.hostId === hostId) return true;
  await lockAntiAffinity(tx, sandbox);
  return !(await listHostsOfKey(tx, sandbox, sandbox.id)).includes(hostId);
}

/** Pause and stop happen where the sandbox is; the others are placed, and so is a stop of what the store alone can give: its host is gone, or it is on none. */
async function choose(
  deps: Deps,
  operation: OperationRow,
  sandbox: SandboxRow,
  snapshot: SnapshotRow | undefined,
): Promise<Assignment | undefined> {
  const { kind } = operation;
  // An unsynced snapshot has to run once more to save its files, so it needs its memory back.
  const needsMemory = sandbox.settledState === "running" || snapshot?.guestSynced === false;
  const isSaved = kind === "pause" || kind === "stop";
  const origin = kind === "pause" ? undefined : await deps.placer.find(sandbox.hostId);
  const isStopElsewhere =
    kind === "stop" && sandbox.settledState !== "running" && origin === undefined && snapshot !== undefined && snapshot.storeKey !== null;
  if (isSaved && sandbox.hostId !== null && !isStopElsewhere) return { hostId: sandbox.hostId, holdsMemory: needsMemory };
  const request =
    kind === "create"
      ? await requestToCreate(deps.db, sandbox, sandbox.id)
      : await requestToReturn(deps.db, { kind, sandbox, snapshot, origin, pinnedHostId: operation.pinnedHostId });
  const placement = await deps.placer.place(request);
  if (placement.kind === "placed") {
    const { id: hostId } = placement.host;
    const source = origin === undefined || origin.id === hostId ? undefined : origin;
    return { hostId, source, placement, holdsMemory: !isSaved || needsMemory };
  }
  const explain = { hosts: placement.hosts, reasons: placement.reasons, message: placement.message };
  if (isKnown(operation.explain, explain.message)) return undefined;
  await explainOperation(deps.db, operation.id, explain);
  deps.log.info({ sandboxId: sandbox.id, operationId: operation.id, ...explain }, "operation waits for capacity");
  return undefined;
}

/** It waits for the same as in the round before: the message names every reason with its count. */
function isKnown(explain: unknown, message: string): boolean {
  return typeof explain === "object" && explain !== null && "message" in explain && explain.message === message;
}
