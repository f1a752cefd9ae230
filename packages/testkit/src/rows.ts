/**
 * Complete and unique sandboxes, hosts and requests for tests, which set only what matters to them.
 */
import {
  newSandboxId,
  type Observation,
  type RegisterRequest,
  type SandboxId,
  unverifiedHostId,
} from "@torpor/contracts";
import {
  acceptCreate,
  applyPlans,
  findSandboxRow,
  type HostHeartbeat,
  inTransaction,
  moveOperation,
  type Requester,
  type SandboxRow,
} from "@torpor/db";
import { type Plan, planMoves } from "@torpor/plans";
import type { StableState } from "@torpor/state-machine";
import type { TestDatabase } from "./database.ts";
import { type RecordedMove, moveSandbox } from "./moves.ts";
import { SIMULATED_TEMPLATE } from "./simulated-image.ts";

const IMAGE_SHA256 = "a".repeat(64);

type NewSandbox = Parameters<typeof acceptCreate>[1];

let sandboxes = 0;
export function aSandbox(given: Partial<NewSandbox> = {}): NewSandbox {
  sandboxes += 1;
  return {
    id: newSandboxId(),
    templateId: SIMULATED_TEMPLATE,
    templateName: SIMULATED_TEMPLATE,
    imageSha256: IMAGE_SHA256,
    region: "local",
    vcpu: 1,
    memoryMib: 64,
    diskMib: 16,
    internetAccess: false,
    envVars: {},
    metadata: {},
    timeoutSeconds: null,
    edgeAddress: `127.${70 + (sandboxes >> 16)}.${(sandboxes >> 8) & 255}.${sandboxes & 255}`,
    ...given,
  };
}

export function aRequester(
  { organizationId }: Pick<TestDatabase, "organizationId">,
  given: Partial<Requester> = {},
): Requester {
  return { organizationId, requestedBy: "api-key:1", deadlineMs: 60_000, ...given };
}

export function aHost(hostId: string, given: Partial<RegisterRequest> = {}): RegisterRequest {
  return {
    type: "register",
    version: 1,
    hostId: unverifiedHostId(hostId),
    region: "local",
    dataPlaneUrl: "http://127.0.0.1:1",
    capacity: { vcpu: 8, memoryMib: 1024, diskMib: 1024 },
    labels: {},
    driver: "scripted",
    driverFingerprint: "scripted/1",
    agentVersion: "0",
    images: [
      {
        templateName: SIMULATED_TEMPLATE,
        sha256: IMAGE_SHA256,
        displayName: "Scripted",
        description: "",
        language: "python",
        category: "test",
        defaults: { vcpu: 1, memoryMib: 64, diskMib: 16 },
      },
    ],
    ...given,
  };
}

/**
 * Makes it look as if schedulers had been renewing leases for `forMs` until now: a host whose lease
 * expired in that time is lost.
 */
export async function leasesCouldBeRenewed(
  { sql }: Pick<TestDatabase, "sql">,
  forMs = 3_600_000,
): Promise<void> {
  const since = sql`now() - ${`${forMs} milliseconds`}::interval`;
  await sql`
    INSERT INTO lease_service (id, answering_since, answered_at) VALUES (1, ${since}, now())
    ON CONFLICT (id) DO UPDATE SET answering_since = ${since}, answered_at = now()`;
}

export function anObservation(
  given: Pick<Observation, "hostId" | "sandboxId" | "state"> & Partial<Observation>,
): Observation {
  return {
    type: "observation",
    version: 1,
    epoch: 1,
    opSeq: 1,
    revision: 1,
    observedAt: new Date().toISOString(),
    ...given,
  };
}

/** The parts of a host's heartbeat besides its inventory. */
export function aHeartbeat(hostId: string, given: Partial<HostHeartbeat> = {}): HostHeartbeat {
  return {
    hostId: unverifiedHostId(hostId),
    load: { vms: 0, residentBytes: 0, diskFreeMib: 1 },
    activity: [],
    replication: [],
    fetches: [],
    ...given,
  };
}

/**
 * Makes a sandbox in the stable `state` on `hostId`, without an open operation, as if it had been
 * created and moved there.
 */
export async function makeSandbox(
  test: TestDatabase,
  state: StableState,
  given: { hostId?: string; sandbox?: Partial<NewSandbox>; patch?: RecordedMove["patch"] } = {},
): Promise<SandboxRow> {
  const { hostId, patch } = given;
  const created = await acceptCreate(test.db, aSandbox(given.sandbox), aRequester(test));
  if (created.kind !== "accepted") throw new Error(`the create was not accepted: ${created.kind}`);
  const { id: operationId, sandboxId } = created.operation;
  return await inTransaction(test.db, async (tx) => {
    await moveOperation(tx, operationId, "succeed");
    const sandbox = await findSandboxRow(tx, sandboxId);
    if (sandbox === undefined) throw new Error("the created sandbox is not there");
    const place =
      hostId === undefined
        ? {}
        : {
            hostId: unverifiedHostId(hostId),
            epoch: 1,
            opSeq: 1,
            holdsMemory: state === "running",
          };
    const moved = await moveSandbox(tx, {
      sandbox,
      to: state,
      fact: "accepted",
      patch: { ...place, ...patch },
    });
    if (moved.kind !== "moved") throw new Error(`the sandbox could not be made: ${moved.kind}`);
    return moved.sandbox;
  });
}

/** Applies the effects of a plan besides the move of the sandbox: its runs and snapshots. */
export async function applyEffects(
  test: TestDatabase,
  sandboxId: SandboxId,
  effects: Plan["effects"],
): Promise<void> {
  const sandbox = await findSandboxRow(test.db, sandboxId);
  if (sandbox === undefined) throw new Error(`there is no sandbox ${sandboxId}`);
  const [applied] = await applyPlans(test.db, [planMoves(sandbox, [], { effects })]);
  if (applied?.kind !== "applied")
    throw new Error(`the effects were not applied: ${applied?.kind}`);
}
