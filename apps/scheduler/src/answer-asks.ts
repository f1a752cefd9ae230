/** What hosts ask and any scheduler answers. The subject says who asks (NATS permissions guard it); a body that claims another host is refused. */
import type {
  CommitReply,
  CommitRequest,
  GarbageReply,
  GarbageRequest,
  LeaseReply,
  LeaseRequest,
  RegisterRequest,
} from "@torpor/contracts";
import { commitOperation, findOperation, findStoreReferences, markIncarnationStarted, registerHost, renewLease } from "@torpor/db";
import type { Deps } from "./deps.ts";

/** Long enough to ride out a scheduler restart, short enough that a lost host is seen within 10 s. */
const LEASE_MS = 9_000;
/** A host that was told to delete a sandbox removes what is stored of it; what it has left behind is garbage after so long. */
const DELETED_GRACE_MS = 300_000;

const notYours = (asker: string, claimed: string) => `host ${asker} may not speak for host ${claimed}`;

/** `prepare` makes what the host needs on the bus (its consumer of commands) before it is told that it is in. */
export async function answerRegister(
  deps: Deps,
  asker: string,
  request: RegisterRequest,
  prepare: (hostId: string) => Promise<void>,
): Promise<LeaseReply> {
  if (asker !== request.hostId) return { granted: false, leaseMs: 0, reason: notYours(asker, request.hostId) };
  await prepare(request.hostId);
  const registered = await registerHost(deps.db, request, LEASE_MS);
  deps.log.info({ hostId: request.hostId, ...registered, capacity: request.capacity, driver: request.driver }, "host registered");
  return { ...registered, leaseMs: registered.granted ? LEASE_MS : 0 };
}

export async function answerLease(deps: Deps, asker: string, request: LeaseRequest): Promise<LeaseReply> {
  if (asker !== request.hostId) return { granted: false, leaseMs: 0, reason: notYours(asker, request.hostId) };
  const renewed = await renewLease(deps.db, request.hostId, LEASE_MS);
  return { ...renewed, leaseMs: renewed.granted ? LEASE_MS : 0 };
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

/**
 * Which entries of the snapshot store are referred to by nothing. Of a sandbox that lives an entry is garbage once one of a later generation is stored: one that nobody has heard of
 * yet may be about to be reported. What the database does not know at all is not judged: another fleet may share the store.
 */
export async function answerGarbage(deps: Deps, asker: string, request: GarbageRequest): Promise<GarbageReply> {
  if (asker !== request.hostId) return { deleted: [], storeKeys: [] };
  const ids = request.sandboxes.map(({ sandboxId }) => sandboxId);
  const references = new Map((await findStoreReferences(deps.db, ids, DELETED_GRACE_MS)).map((known) => [known.sandboxId, known]));
  const storeKeys = request.sandboxes.flatMap((asked) => {
    const known = references.get(asked.sandboxId);
    if (known === undefined || known.isDeleted) return [];
    return asked.storeKeys.filter((key) => !known.storeKeys.includes(key) && generationIn(key) <= known.newestStored);
  });
  return { deleted: [...references.values()].filter(({ isDeleted }) => isDeleted).map(({ sandboxId }) => sandboxId), storeKeys };
}

/** Of a key as hosts make them: `<sandboxId>/<generation>-<manifest>`. What is no such key is never garbage. */
function generationIn(storeKey: string): number {
  return Number(/^[^/]+\/(\d+)-[0-9a-f]+$/.exec(storeKey)?.[1] ?? Number.POSITIVE_INFINITY);
}
