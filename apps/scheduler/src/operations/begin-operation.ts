/** Begins a waiting operation: chooses a host if one is needed, and sends the command. */
import type { OperationId } from "@torpor/contracts";
import { type Decision, explainOperation, type SandboxRows } from "@torpor/db";
import { type Placement, requestToCreate, requestToReturn } from "@torpor/placement";
import {
  type Assignment,
  isPlacementRejection,
  needsMemory,
  type Operation,
  planAssignment,
  planBegin,
} from "@torpor/plans";
import { decide, thisMoment } from "../decide.ts";
import type { Begun, Deps } from "../deps.ts";
import { environmentOf } from "./environment.ts";

type Answer = { begun: Begun } & { facts?: Record<string, unknown> };

export async function beginOperation(deps: Deps, operationId: OperationId): Promise<Begun> {
  const decided = await decide<Answer>(deps, { operationId }, async (view) =>
    view === undefined ? { answer: { begun: { kind: "nothing" } } } : await decideFrom(deps, view),
  );
  if (decided === "gave_up") return { kind: "waits" };
  const { begun, facts } = decided.answer;
  if (decided.applied !== undefined) {
    const what = begun.kind === "begun" ? "operation began" : "operation ended without a command";
    deps.log.info({ operationId, ...facts }, what);
  }
  return begun;
}

async function decideFrom(deps: Deps, view: SandboxRows): Promise<Decision<Answer>> {
  const { sandbox } = view;
  const decision = planBegin(view, thisMoment());
  switch (decision.kind) {
    case "nothing":
    case "waits":
      return { answer: { begun: { kind: decision.kind } } };
    case "ends": {
      const facts = { sandboxId: sandbox.id, state: decision.plan.after.state };
      return { plan: decision.plan, answer: { begun: { kind: "ended" }, facts } };
    }
    case "needs_host":
      return await assign(deps, view, decision.operation);
  }
}

async function assign(
  deps: Deps,
  view: SandboxRows,
  operation: Operation,
): Promise<Decision<Answer>> {
  const waits = { answer: { begun: { kind: "waits" } as const } };
  const chosen = await choose(deps, view, operation);
  if (chosen === undefined) return waits;
  const { sandbox } = view;
  const environment =
    operation.kind === "create"
      ? await environmentOf(deps, sandbox, chosen.commandKey)
      : { envVars: {} };
  if (environment === undefined) return waits;
  const { envVars, ...forPublishing } = environment;
  const plan = planAssignment(view, operation, chosen.assignment, thisMoment(), (command) => ({
    ...command,
    spec: { ...command.spec, envVars },
    ...forPublishing,
  }));
  const { hostId } = chosen.assignment;
  const { epoch, opSeq } = plan.after;
  const { kind } = operation;
  const { passedOver } = chosen;
  const facts = { sandboxId: sandbox.id, kind, hostId, epoch, opSeq, passedOver };
  return { plan, answer: { begun: { kind: "begun" }, facts } };
}

interface Chosen {
  assignment: Assignment;
  /** Key of the chosen host, unchanged while the assignment holds. Null: the host has none. */
  commandKey: string | null;
  /** Hosts that could not take the sandbox, by reason. */
  passedOver?: Placement["reasons"];
}

/**
 * Pause and stop happen where the sandbox is. Other operations are placed, and so is a stop for
 * which only the store has the copy: the host is gone, or the sandbox is on none. Undefined: no
 * host can take the sandbox now.
 */
async function choose(
  deps: Deps,
  { sandbox, snapshot }: SandboxRows,
  operation: Operation,
): Promise<Chosen | undefined> {
  const { kind } = operation;
  const needs = needsMemory(sandbox, snapshot);
  const isSaved = kind === "pause" || kind === "stop";
  const origin = kind === "pause" ? undefined : await deps.placer.find(sandbox.hostId);
  const isStored = snapshot !== undefined && snapshot.storeKey !== null;
  const isStopElsewhere =
    kind === "stop" && sandbox.settledState !== "running" && origin === undefined && isStored;
  if (isSaved && sandbox.hostId !== null && !isStopElsewhere)
    return { assignment: { hostId: sandbox.hostId, holdsMemory: needs }, commandKey: null };
  const { pinnedHostId } = operation;
  const request =
    kind === "create"
      ? await requestToCreate(deps.db, sandbox, sandbox.id)
      : await requestToReturn(deps.db, { kind, sandbox, snapshot, origin, pinnedHostId });
  const placement = await deps.placer.place(request);
  if (placement.kind === "placed") {
    const placed = placement.host;
    const source = origin === undefined || origin.id === placed.id ? undefined : origin;
    const holdsMemory = !isSaved || needs;
    return {
      assignment: { hostId: placed.id, source, placed, holdsMemory },
      commandKey: placed.commandKey,
      passedOver: placement.reasons,
    };
  }
  const { hosts, reasons, message } = placement;
  // The reasons are those of the round before: the message names each with its count.
  const { explain: known } = operation;
  if (isPlacementRejection(known) && known.message === message) return undefined;
  const explain = { hosts, reasons, message };
  await explainOperation(deps.db, operation.id, explain);
  const facts = { sandboxId: sandbox.id, operationId: operation.id, ...explain };
  deps.log.info(facts, "operation left waiting for capacity");
  return undefined;
}
