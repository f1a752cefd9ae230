/** From rows to what placement is asked: for an operation, and for a dry run of one. */
import { type Database, listHostsOfKey, type SandboxRow, type SnapshotRow } from "@torpor/db";
import type { PlacementRequest } from "./placement.ts";

/** What a sandbox asks of its host, whichever it is. */
type Wanted = Pick<
  SandboxRow,
  "organizationId" | "vcpu" | "memoryMib" | "diskMib" | "imageSha256" | "region" | "placementLabels" | "antiAffinity" | "onHostLoss"
>;

/** For a sandbox that is on no host yet. */
export async function requestToCreate(db: Database, wanted: Wanted, exceptId?: string): Promise<PlacementRequest> {
  const { vcpu, memoryMib, diskMib, imageSha256, region, placementLabels: labels } = wanted;
  const occupiedHostIds = await listHostsOfKey(db, wanted, exceptId);
  return { vcpu, memoryMib, diskMib, imageSha256, region, labels, occupiedHostIds, needsFence: wanted.onHostLoss === "restore" };
}

/** For one that is to run again: near its disk, and nowhere else unless its snapshot can be had elsewhere. */
export async function requestToReturn(
  db: Database,
  kind: "resume" | "start",
  sandbox: SandboxRow,
  snapshot: SnapshotRow | undefined,
  /** The host that it has to return to. */
  pinnedHostId?: string | undefined,
): Promise<PlacementRequest> {
  const request = await requestToCreate(db, sandbox, sandbox.id);
  const local = sandbox.hostId ?? undefined;
  const restored = kind === "resume" ? snapshot : undefined;
  const isStored = restored !== undefined && restored.storeKey !== null;
  return {
    ...request,
    localHostId: local,
    pinnedHostId: isStored ? pinnedHostId : local,
    ...(restored === undefined ? {} : { driverFingerprint: restored.driverFingerprint }),
  };
}
