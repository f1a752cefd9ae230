/**
 * Requests of hosts, which any scheduler handles. The subject identifies the host (NATS permissions
 * guard it); a body that claims another host is refused.
 */
import {
  type CommitReply,
  type CommitRequest,
  type GarbageReply,
  type GarbageRequest,
  type HostId,
  isStoredOf,
  type LeaseReply,
  type LeaseRequest,
  type RegisterRequest,
  registrationProblem,
  type ThawReply,
  type ThawRequest,
} from "@torpor/contracts";
import {
  commitOperation,
  findHost,
  findHostAdmission,
  findMismatchedImages,
  findOperation,
  findRunFacts,
  findStoreReferences,
  type InventoryProgress,
  type LeaseAnswer,
  type LeaseRenewal,
  MAX_CHECKS,
  registerHost,
  renewFreeLeases,
  renewLease,
  type RunFacts,
} from "@torpor/db";
import { isBoxPublicKey } from "@torpor/service";
import { isTombstoned, type SandboxState } from "@torpor/state-machine";
import type { Deps } from "../deps.ts";
import { admissionProblem } from "./admission.ts";

/** States in which no VM of a sandbox may run anywhere. */
const RESTING: ReadonlySet<SandboxState> = new Set(["paused", "stopped", "error"]);
/**
 * A host that was commanded to delete a sandbox removes what is stored of it. What is left after
 * this time is garbage.
 */
const DELETED_GRACE_MS = 300_000;

const notYours = (asker: string, claimed: string) =>
  `host ${asker} may not speak for host ${claimed}`;

/**
 * `prepare` creates what the host needs on the bus (its consumer of commands) before the host gets
 * the reply that it is in.
 */
export async function handleRegister(
  deps: Deps,
  asker: string,
  request: RegisterRequest,
  prepare: (hostId: HostId) => Promise<void>,
): Promise<LeaseReply> {
  if (asker !== request.hostId)
    return { granted: false, leaseMs: 0, reason: notYours(asker, request.hostId) };
  const problem =
    registrationProblem(request) ??
    deps.hostNetworks.problemOf(request.dataPlaneUrl) ??
    commandKeyProblem(request) ??
    admissionProblem(request, await findHostAdmission(deps.db, request.hostId), deps.hostRules);
  if (problem !== undefined) return { granted: false, leaseMs: 0, reason: problem };
  await prepare(request.hostId);
  const { leaseMs } = deps.hostTerms;
  const registered = await registerHost(deps.db, request, leaseMs, deps.vcpuOvercommit);
  deps.log.info(
    { hostId: request.hostId, ...registered, capacity: request.capacity, driver: request.driver },
    "host registered",
  );
  await warnOfImages(deps, request);
  return { ...registered, leaseMs: registered.granted ? leaseMs : 0 };
}

/** Secrets that cannot be sealed for the host would make a create wait at every try. */
const commandKeyProblem = ({ commandKey }: RegisterRequest) =>
  commandKey === undefined || isBoxPublicKey(commandKey)
    ? undefined
    : "commandKey is no X25519 key that anything can be sealed for";

async function warnOfImages({ db, log }: Deps, { hostId, images }: RegisterRequest): Promise<void> {
  for (const { template, shownSha256s } of await findMismatchedImages(db, images))
    log.warn(
      {
        hostId,
        template: template.name,
        imageSha256: template.imageSha256,
        hostImageSha256s: shownSha256s,
      },
      "host registered with another image of a template than the operator named; it gets no sandboxes of the template",
    );
}

/** `renewFree`: renews one lease, or many together with those of other hosts. */
export async function handleLease(
  deps: Deps,
  asker: string,
  request: LeaseRequest,
  renewFree = async (asked: LeaseRenewal): Promise<LeaseAnswer | undefined> =>
    (await renewFreeLeases(deps.db, [asked], deps.hostTerms.leaseMs))[0],
): Promise<LeaseReply> {
  const { hostId, fence } = request;
  if (asker !== hostId) return { granted: false, leaseMs: 0, reason: notYours(asker, hostId) };
  const hasFence = fence?.isAlive ?? false;
  const { leaseMs } = deps.hostTerms;
  const answer: LeaseAnswer =
    (await renewFree({ hostId, hasFence })) ??
    (await renewLease(deps.db, hostId, leaseMs, hasFence));
  const { granted, reason, standing } = answer;
  return {
    granted,
    leaseMs: granted ? leaseMs : 0,
    ...(reason === undefined ? {} : { reason }),
    ...(standing === undefined ? {} : wantedOf(standing)),
    ...(standing === undefined || standing.state === "ready" ? {} : { getsNoSandboxes: true }),
  };
}

/** Requested contents of the host's next heartbeats. */
function wantedOf({
  reconciled,
  checks,
}: InventoryProgress): Pick<LeaseReply, "reconciledInventory" | "showSandboxes"> {
  if (reconciled === null || checks.length > MAX_CHECKS) return {};
  const shown =
    checks.length === 0 ? {} : { showSandboxes: checks.map(({ sandboxId }) => sandboxId) };
  return { reconciledInventory: reconciled, ...shown };
}

/** Granted: `committed_at` is set on an executing, unexpired operation of this incarnation. */
export async function handleCommit(
  deps: Deps,
  asker: string,
  request: CommitRequest,
): Promise<CommitReply> {
  if (asker !== request.hostId) return { granted: false, reason: notYours(asker, request.hostId) };
  const { operationId: id, hostId, epoch, opSeq, sandboxId } = request;
  const granted = await commitOperation(deps.db, { id, sandboxId, hostId, epoch, opSeq });
  if (granted) return { granted };
  const reason = await refusal(deps, request);
  deps.log.info({ ...request, reason }, "commit refused");
  return { granted, reason };
}

async function refusal(deps: Deps, request: CommitRequest): Promise<string> {
  const operation = await findOperation(deps.db, request.operationId);
  if (operation === undefined) return `operation ${request.operationId} is unknown`;
  if (operation.endedAt !== null) return `operation ${operation.id} has ended: ${operation.status}`;
  if (operation.cancelRequestedAt !== null)
    return `operation ${operation.id} was asked to back out`;
  if (operation.deadlineAt.getTime() <= Date.now())
    return `operation ${operation.id} is past its deadline`;
  const { hostId, sandboxId, epoch, opSeq } = operation;
  return `operation ${operation.id} is for host ${hostId}, sandbox ${sandboxId}, epoch ${epoch}, op_seq ${opSeq}`;
}

/**
 * Granted: this VM is the sandbox's newest run, the run was not given up for lost, and its host has
 * its lease. From here on, the run is not given up unless the VM is frozen again first.
 */
export async function handleThaw(
  deps: Deps,
  asker: string,
  request: ThawRequest,
): Promise<ThawReply> {
  if (asker !== request.hostId) return { granted: false, reason: notYours(asker, request.hostId) };
  const reason = whyFrozen(await findRunFacts(deps.db, request), request);
  deps.log.info({ ...request, granted: reason === undefined, reason }, "thaw of a VM requested");
  return reason === undefined ? { granted: true } : { granted: false, reason };
}

function whyFrozen(
  facts: RunFacts | undefined,
  { hostId, sandboxId, epoch }: ThawRequest,
): string | undefined {
  if (facts === undefined) return `sandbox ${sandboxId} or host ${hostId} is unknown`;
  const { sandbox, isLeased, incarnation } = facts;
  if (!isLeased) return `host ${hostId} has no lease`;
  if (isTombstoned(sandbox.state)) return "the sandbox was deleted";
  if (incarnation?.cause === "host_lost")
    return `run ${epoch} was given up for lost, and the sandbox goes on elsewhere`;
  if (sandbox.hostId !== hostId || sandbox.epoch !== epoch)
    return `its run is number ${sandbox.epoch} on host ${sandbox.hostId}`;
  return RESTING.has(sandbox.state) ? `the sandbox is ${sandbox.state}` : undefined;
}

/**
 * Finds entries of the snapshot store that nothing refers to. An entry of a living sandbox is
 * garbage once an entry of a later generation is stored: an unknown entry may be about to be
 * reported. Sandboxes that the database does not know are not judged: another fleet may share the
 * store.
 *
 * A sweep covers all of the store, so a host may name sandboxes of other hosts. A lie gains
 * nothing: the reply is the same for every host, goes only to the one that requested it, and any
 * host that can act on it has access to the store anyway. The reply depends on snapshots that each
 * sandbox's own host has reported.
 */
export async function handleGarbage(
  deps: Deps,
  asker: string,
  request: GarbageRequest,
): Promise<GarbageReply> {
  const nothing: GarbageReply = { deleted: [], storeKeys: [] };
  if (asker !== request.hostId) return nothing;
  const host = await findHost(deps.db, request.hostId);
  if (host === undefined || host.state === "lost" || host.state === "retired") return nothing;
  const ids = request.sandboxes.map(({ sandboxId }) => sandboxId);
  const references = new Map(
    (await findStoreReferences(deps.db, ids, DELETED_GRACE_MS)).map((known) => [
      known.sandboxId,
      known,
    ]),
  );
  const storeKeys = request.sandboxes.flatMap((asked) => {
    const known = references.get(asked.sandboxId);
    if (known === undefined || known.isDeleted) return [];
    const own = asked.storeKeys.filter((key) => isStoredOf(asked.sandboxId, key));
    return own.filter(
      (key) => !known.storeKeys.includes(key) && generationIn(key) <= known.newestStored,
    );
  });
  return {
    deleted: [...references.values()]
      .filter(({ isDeleted }) => isDeleted)
      .map(({ sandboxId }) => sandboxId),
    storeKeys,
  };
}

/**
 * Generation in a key as hosts make them: `<sandboxId>/<generation>-<manifest>`. Any other key is
 * never garbage.
 */
function generationIn(storeKey: string): number {
  return Number(/^[^/]+\/(\d+)-[0-9a-f]+$/.exec(storeKey)?.[1] ?? Number.POSITIVE_INFINITY);
}
