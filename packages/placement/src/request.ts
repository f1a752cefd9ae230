/** Placement requests, built from rows: for an operation, and for a dry run of one. */
import {
  listHostsOfKey,
  type OperationRow,
  type PlacementHost,
  type SandboxRow,
  type StoredSnapshotRow,
  type Tx,
} from "@torpor/db";
import { FleetView, restores } from "./fleet.ts";
import { place, type PlacementRequest } from "./placement.ts";

/** Requirements of a sandbox, for any host. */
export type Wanted = Pick<
  SandboxRow,
  | "organizationId"
  | "vcpu"
  | "memoryMib"
  | "diskMib"
  | "imageSha256"
  | "region"
  | "placementLabels"
  | "antiAffinity"
  | "onHostLoss"
>;

/** Request for a sandbox that is on no host yet. */
export async function requestToCreate(
  db: Tx,
  wanted: Wanted,
  exceptId?: SandboxRow["id"],
): Promise<PlacementRequest> {
  return requestFor(wanted, await listHostsOfKey(db, wanted, exceptId));
}

/** `occupiedHostIds`: the hosts with another sandbox of the same anti-affinity key. */
export function requestFor(
  wanted: Omit<Wanted, "organizationId" | "antiAffinity">,
  occupiedHostIds: PlacementHost["id"][],
): PlacementRequest {
  const { vcpu, memoryMib, diskMib, imageSha256, region, placementLabels: labels } = wanted;
  return {
    vcpu,
    memoryMib,
    diskMib,
    imageSha256,
    region,
    labels,
    occupiedHostIds,
    needsFence: wanted.onHostLoss === "restore",
  };
}

export interface Return {
  kind: OperationRow["kind"];
  sandbox: Wanted & Pick<SandboxRow, "id" | "hostId">;
  snapshot: StoredSnapshotRow | undefined;
  /** The host that holds the sandbox, if it lives. */
  origin: PlacementHost | undefined;
  /** The host that the sandbox has to return to. */
  pinnedHostId?: PlacementHost["id"] | null;
}

/**
 * Request for a sandbox that is to run again: near its disk, and elsewhere only if the disk can be
 * fetched. A snapshot, or the disk of a stopped sandbox, is fetched straight from its origin; when
 * the origin is gone, the store must have it.
 */
export async function requestToReturn(db: Tx, wanted: Return): Promise<PlacementRequest> {
  return returning(await requestToCreate(db, wanted.sandbox, wanted.sandbox.id), wanted);
}

function returning(
  request: PlacementRequest,
  { kind, sandbox, snapshot, origin, pinnedHostId }: Return,
): PlacementRequest {
  const local = sandbox.hostId ?? undefined;
  const canMove = snapshot !== undefined && (snapshot.storeKey !== null || origin !== undefined);
  return {
    ...request,
    localHostId: local,
    pinnedHostId: canMove ? (pinnedHostId ?? undefined) : local,
    onlyHolderId: snapshot?.storeKey === null ? origin?.id : undefined,
    ...(kind !== "start" && snapshot !== undefined
      ? { driverFingerprint: snapshot.driverFingerprint }
      : {}),
  };
}

/**
 * True if `local-first` places the sandbox on the host that holds it, regardless of other hosts:
 * that host is ready, has room, and restores what it holds itself. An anti-affinity key does not
 * keep a sandbox off the host that it is on.
 */
export function goesHome(
  home: PlacementHost,
  { kind, sandbox, snapshot }: Pick<Return, "kind" | "sandbox" | "snapshot">,
): boolean {
  const request = returning(requestFor(sandbox, []), { kind, sandbox, snapshot, origin: home });
  if (home.state !== "ready" || !restores(home, request)) return false;
  return place(new FleetView([home]), request, "local-first").kind === "placed";
}
