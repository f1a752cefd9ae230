/**
 * Accepts a request for a transition, in the gateway: queues an operation and announces it through
 * the outbox. An operation that needs no choice of a host, and has nothing before it, begins with
 * the same statement (decision 42).
 *
 * Concurrent identical intents join (S31), and different ones see each other: a plan is applied
 * only to the queue that it was made for.
 */
import { newOperationId, type OperationId, type SandboxId } from "@torpor/contracts";
import { type BeginsAt, type Plan, planRequest, type Requester } from "@torpor/plans";
import type { OperationKind, SandboxRequest, StableState } from "@torpor/state-machine";
import { and, eq } from "drizzle-orm";
import type { Database, Tx } from "../../database.ts";
import { decide, type Decision } from "../../decide.ts";
import { sandboxes } from "../../schema.ts";
import type { OperationRow } from "../operations/operations.ts";
import type { PlacementHost } from "../hosts/placement.ts";
import type { QuotaRefusal } from "../organizations/quotas.ts";
import { type AcceptedOperation, findRepeat, isRepeated } from "./accept.ts";
import { type AppliedPlan, applyPlan } from "./apply-plans.ts";
import type { SandboxRow } from "./sandbox-row.ts";
import { readView, type SandboxRows, type WantedView } from "./views.ts";

export type AcceptRequest =
  | AcceptedOperation
  | { kind: "satisfied"; state: StableState }
  | { kind: "conflict"; current: StableState; allowed: SandboxRequest[] }
  | { kind: "blocked"; current: StableState; by: { id: OperationId; kind: OperationKind } }
  | { kind: "not_found" }
  | { kind: "key_reused" }
  | QuotaRefusal;

/** True if a sandbox can continue on the host that holds it, so that there is no host to choose. */
export type GoesHome = (
  home: PlacementHost,
  sandbox: Pick<SandboxRows, "sandbox" | "snapshot"> & { kind: SandboxRequest },
) => boolean;

/**
 * Compares `request` with the end of the sandbox's queue (ARCHITECTURE.md, "A request"), and queues
 * an operation where one is needed.
 */
export async function acceptRequest(
  db: Database,
  sandboxId: SandboxId,
  request: SandboxRequest,
  requester: Requester,
  goesHome: GoesHome = () => false,
): Promise<AcceptRequest> {
  let isHomeFree = true;
  const homeOf = (view: SandboxRows) =>
    isHomeFree && view.home !== undefined && goesHome(view.home, { ...view, kind: request })
      ? view.home
      : undefined;
  try {
    const decided = await decide<RequestAnswer>(db, wantedFor(sandboxId, requester), {
      decideFrom: (view) => decideRequest(view, request, requester, view && { home: homeOf(view) }),
      // The home host has changed, is full or is locked: a scheduler chooses a host.
      onOvertaken: () => (isHomeFree = false),
    });
    if (decided === "gave_up") throw keptBusy(sandboxId);
    const { answer, applied, quotas } = decided;
    // There was no view, so the key has not been looked up.
    if (answer.kind === "not_found") return (await findRepeat(db, requester)) ?? answer;
    if (applied?.kind === "quota_exceeded") return applied;
    const accepted = acceptedBy(answer, applied);
    return accepted.kind === "accepted" && accepted.isNew ? { ...accepted, quotas } : accepted;
  } catch (error) {
    if (!isRepeated(error)) throw error;
    // Two requests with one key raced, and the other one is committed now.
    const repeat = await findRepeat(db, requester);
    if (repeat === undefined) throw error;
    return repeat;
  }
}

/**
 * Accepts a request within a transaction that changes more. Ignores quotas, and waits for locks.
 */
export async function acceptWithin(
  tx: Tx,
  sandboxId: SandboxId,
  request: SandboxRequest,
  requester: Requester,
): Promise<AcceptRequest> {
  await lockSandbox(tx, sandboxId, requester);
  const view = await readView(tx, wantedFor(sandboxId, requester));
  const { plan, answer } = decideRequest(view, request, requester);
  if (plan === undefined) return acceptedBy(answer);
  const applied = await applyPlan(tx, { ...plan, unlimitedOrganizationId: null });
  // An operation of another sandbox has the key, because this sandbox is locked.
  if (applied.kind === "key_used") return { kind: "key_reused" };
  if (applied.kind !== "applied")
    throw new Error(`a request for a sandbox that is locked was ${applied.kind}`);
  return acceptedBy(answer, applied);
}

type RequestAnswer =
  | { kind: "queued" }
  | { kind: "joined"; operation: OperationRow }
  | Exclude<AcceptRequest, AcceptedOperation | QuotaRefusal>;

/** Only these requests use what a quota counts; the others free it or keep it. */
const COUNTED: ReadonlySet<SandboxRequest> = new Set(["resume", "start"]);

function decideRequest(
  view: SandboxRows | undefined,
  request: SandboxRequest,
  requester: Requester,
  beginsAt?: BeginsAt,
): Decision<RequestAnswer> {
  if (view === undefined) return { answer: { kind: "not_found" } };
  const { repeat } = view.named;
  if (repeat !== undefined) return { answer: repeatOf(repeat, requester) };
  const moment = { now: new Date(), newOperationId };
  const decision = planRequest(view, request, requester, moment, beginsAt);
  switch (decision.kind) {
    case "queued": {
      const isCounted = COUNTED.has(request) && requester.exemptFromQuotas !== true;
      const { plan, kind, supersedes } = decision;
      if (!isCounted) return { plan, answer: { kind } };
      const { organizationId } = requester;
      const waits = planRequest(view, request, requester, moment);
      return {
        plan: { ...plan, unlimitedOrganizationId: organizationId },
        counted: waits.kind === "queued" ? waits.plan : plan,
        asks: { organizationId, kind: request, sandbox: view.sandbox, supersedes },
        answer: { kind },
      };
    }
    case "joined": {
      const { plan, kind } = decision;
      return { plan, answer: { kind, operation: joinedAs(view, decision.operation.id, plan) } };
    }
    case "satisfied": {
      const { plan, ...answer } = decision;
      return { plan, answer };
    }
    default:
      return { answer: decision };
  }
}

/** The operation as it will be once the plan is applied. */
function joinedAs({ executing, waiting }: SandboxRows, id: OperationId, plan: Plan | undefined) {
  const operation = [executing, waiting].find((open) => open?.id === id);
  if (operation === undefined) throw new Error(`operation ${id} is not open`);
  const { liftsBounds = false, takenOverBy = null } = plan?.joins ?? {};
  return {
    ...operation,
    ...(liftsBounds ? { onlyIfIdleForMs: null, pinnedHostId: null, maxBytesPerSecond: null } : {}),
    ...(takenOverBy === null ? {} : { requestedBy: takenOverBy }),
  };
}

function repeatOf(operation: OperationRow, { requestSha256 }: Requester): RequestAnswer {
  return operation.requestSha256 === (requestSha256 ?? null)
    ? { kind: "joined", operation }
    : { kind: "key_reused" };
}

function acceptedBy(answer: RequestAnswer, applied?: AppliedPlan): AcceptRequest {
  switch (answer.kind) {
    case "queued": {
      if (applied?.kind !== "applied" || applied.queued === undefined)
        throw new Error("a queued operation was not returned");
      const { queued: operation, messages } = applied;
      return { kind: "accepted", operation, isNew: true, messages };
    }
    case "joined":
      return { kind: "accepted", operation: answer.operation, isNew: false, messages: [] };
    default:
      return answer;
  }
}

const wantedFor = (
  sandboxId: SandboxId,
  { organizationId, idempotencyKey }: Requester,
): WantedView => ({ sandboxId, request: { organizationId, idempotencyKey } });

async function lockSandbox(
  tx: Tx,
  sandboxId: SandboxId,
  { organizationId }: Requester,
): Promise<SandboxRow | undefined> {
  const [row] = await tx
    .select()
    .from(sandboxes)
    .where(and(eq(sandboxes.id, sandboxId), eq(sandboxes.organizationId, organizationId)))
    .for("no key update");
  return row;
}

/** Reported as an outage, which it is for the waiting client. */
const keptBusy = (sandboxId: SandboxId) =>
  Object.assign(new Error(`sandbox ${sandboxId} kept changing, or was locked, for too long`), {
    code: "ETIMEDOUT",
  });
