/** What hosts ask and any scheduler answers. The subject says who asks (NATS permissions guard it); a body that claims another host is refused. */
import type { CommitReply, CommitRequest, LeaseReply, LeaseRequest, RegisterRequest } from "@torpor/contracts";
import { commitOperation, findOperation, markIncarnationStarted, registerHost, renewLease } from "@torpor/db";
import type { Deps } from "./deps.ts";

/** Long enough to ride out a scheduler restart; with the half second in which it is looked for (reconcilers.ts), a lost host is seen within 10 s of its last renewal. */
export const DEFAULT_LEASE_MS = 8_000;

const notYours = (asker: string, claimed: string) => `host ${asker} may not speak for host ${claimed}`;

/** `prepare` makes what the host needs on the bus (its consumer of commands) before it is told that it is in. */
export async function answerRegister(
  deps: Deps,
  asker: string,
  request: RegisterRequest,
  leaseMs: number,
  prepare: (hostId: string) => Promise<void>,
): Promise<LeaseReply> {
  if (asker !== request.hostId) return { granted: false, leaseMs: 0, reason: notYours(asker, request.hostId) };
  await prepare(request.hostId);
  const registered = await registerHost(deps.db, request, leaseMs, deps.vcpuOvercommit);
  deps.log.info({ hostId: request.hostId, ...registered, capacity: request.capacity, driver: request.driver }, "host registered");
  return { ...registered, leaseMs: registered.granted ? leaseMs : 0 };
}

export async function answerLease(deps: Deps, asker: string, request: LeaseRequest, leaseMs: number): Promise<LeaseReply> {
  if (asker !== request.hostId) return { granted: false, leaseMs: 0, reason: notYours(asker, request.hostId) };
  const renewed = await renewLease(deps.db, request.hostId, leaseMs);
  return { ...renewed, leaseMs: renewed.granted ? leaseMs : 0 };
}

/** Yes means: `committed_at` is set on an executing, unexpired operation of this incarnation (architecture.md 6). */
export async function answerCommit(deps: Deps, asker: string, request: CommitRequest): Promise<CommitReply> {
  if (asker !== request.hostId) return { granted: false, reason: notYours(asker, request.hostId) };
  const granted = await deps.db.transaction(async (tx) => {
    const { operationId: id, hostId, epoch, opSeq, sandboxId } = request;
    const committed = await commitOperation(tx, { id, hostId, epoch, opSeq });
    if (committed) await markIncarnationStarted(tx, sandboxId, epoch);
    return committed;
  });
  if (granted) return { granted };
  const reason = await refusal(deps, request);
  deps.log.info({ ...request, reason }, "commit refused");
  return { granted, reason };
}

async function refusal(deps: Deps, request: CommitRequest): Promise<string> {
  const operation = await findOperation(deps.db, request.operationId);
  if (operation === undefined) return `operation ${request.operationId} is unknown`;
  if (operation.endedAt !== null) return `operation ${operation.id} has ended: ${operation.status}`;
  if (operation.cancelRequestedAt !== null) return `operation ${operation.id} was asked to back out`;
  if (operation.deadlineAt.getTime() <= Date.now()) return `operation ${operation.id} is past its deadline`;
  return `operation ${operation.id} is for host ${operation.hostId}, epoch ${operation.epoch}, op_seq ${operation.opSeq}`;
}
