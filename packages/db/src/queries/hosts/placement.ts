/**
 * Rows that placement reads, and the check of a choice when it is claimed.
 *
 * A choice may be made from slightly old rows. So the claim checks again, with the rows locked
 * (apply_plans): capacity, the host's state and facts, and the anti-affinity key.
 */
import type { HostId, SandboxId } from "@torpor/contracts";
import { and, asc, eq, gt, inArray, isNotNull, isNull, ne, notInArray, sql } from "drizzle-orm";
import {
  LEASED_STATES,
  OPERATION_KINDS,
  OPERATION_TARGET,
  TOMBSTONED_STATES,
} from "@torpor/state-machine";
import type { Tx } from "../../database.ts";
import { isOneOf } from "../../literals.ts";
import { hosts, operations, sandboxes } from "../../schema.ts";
import type { SandboxRow } from "../sandboxes/sandbox-row.ts";
import type { HostRow } from "./host-events.ts";

const PLACEMENT_COLUMNS = {
  id: hosts.id,
  state: hosts.state,
  region: hosts.region,
  dataPlaneUrl: hosts.dataPlaneUrl,
  ticketKey: hosts.ticketKey,
  commandKey: hosts.commandKey,
  labels: hosts.labels,
  restorableFingerprints: hosts.restorableFingerprints,
  hasFence: hosts.hasFence,
  imageSha256s: hosts.imageSha256s,
  vcpuCapacity: hosts.vcpuCapacity,
  memoryMibCapacity: hosts.memoryMibCapacity,
  diskMibCapacity: hosts.diskMibCapacity,
  vcpuUsed: hosts.vcpuUsed,
  memoryMibUsed: hosts.memoryMibUsed,
  diskMibUsed: hosts.diskMibUsed,
  registeredAt: hosts.registeredAt,
} as const;
export type PlacementHost = Pick<HostRow, keyof typeof PLACEMENT_COLUMNS> & {
  /** Limit of concurrent starts, as last reported; null: not reported, or no start waits. */
  startsAtOnce: number | null;
  /** Starts that the host was sent, and has not reported on. */
  startsUnderWay: number;
};

/** Kinds of operations that begin a run on the assigned host. */
const STARTS = OPERATION_KINDS.filter((kind) => OPERATION_TARGET[kind] === "running");

/** Condition: the host has a running lease, and is not revoked. */
export const hasLease = and(
  inArray(hosts.state, [...LEASED_STATES]),
  gt(hosts.leaseExpiresAt, sql`now()`),
  isNull(hosts.revokedAt),
);

/** Hosts with a running lease, by id. */
export async function listPlacementHosts(db: Tx): Promise<PlacementHost[]> {
  return (await readPlacementHosts(db)).leased;
}

/**
 * The hosts with a running lease, and the number of those without (lost, whether marked or not).
 * One statement: a lease that ends between two would count its host twice.
 */
export async function readPlacementHosts(
  db: Tx,
): Promise<{ leased: PlacementHost[]; lost: number }> {
  const underWay = db
    .select({ hostId: operations.hostId, starts: sql<number>`count(*)::int`.as("starts") })
    .from(operations)
    .where(and(isOneOf(operations.status, "executing"), inArray(operations.kind, STARTS)))
    .groupBy(operations.hostId)
    .as("under_way");
  const rows = await db
    .select({
      isLeased: sql<boolean | null>`${hasLease}`,
      host: {
        ...PLACEMENT_COLUMNS,
        startsAtOnce: sql<number | null>`(${hosts.load}->>'startsAtOnce')::int`,
        startsUnderWay: sql<number>`coalesce(${underWay.starts}, 0)`,
      },
    })
    .from(hosts)
    .leftJoin(underWay, eq(underWay.hostId, hosts.id))
    .where(ne(hosts.state, "retired"))
    .orderBy(asc(hosts.id));
  return {
    leased: rows.filter(({ isLeased }) => isLeased === true).map(({ host }) => host),
    lost: rows.filter(({ isLeased }) => isLeased === false).length,
  };
}

type Separated = Pick<SandboxRow, "organizationId" | "antiAffinity">;

/**
 * Hosts that have a sandbox of the same organization and key, or get one back if its move fails;
 * `exceptId` does not count. Empty without a key.
 */
export async function listHostsOfKey(
  db: Tx,
  { organizationId, antiAffinity }: Separated,
  exceptId?: SandboxId,
): Promise<HostId[]> {
  if (antiAffinity === null) return [];
  const rows = await db
    .selectDistinct({ hostId: sandboxes.hostId, originHostId: sandboxes.originHostId })
    .from(sandboxes)
    .where(
      and(
        eq(sandboxes.organizationId, organizationId),
        eq(sandboxes.antiAffinity, antiAffinity),
        isNotNull(sandboxes.hostId),
        notInArray(sandboxes.state, [...TOMBSTONED_STATES]),
        exceptId === undefined ? undefined : ne(sandboxes.id, exceptId),
      ),
    );
  return [...new Set(rows.flatMap(({ hostId, originHostId }) => [hostId, originHostId]))].filter(
    (id) => id !== null,
  );
}

type Sized = Pick<SandboxRow, "region" | "placementLabels" | "vcpu" | "memoryMib" | "diskMib">;

/** True if some registered host could take the sandbox if that host were empty. */
export async function couldBePlaced(
  db: Tx,
  { region, placementLabels, vcpu, memoryMib, diskMib }: Sized,
): Promise<boolean> {
  const rows = await db
    .select({ id: hosts.id })
    .from(hosts)
    .where(
      and(
        ne(hosts.state, "retired"),
        eq(hosts.region, region),
        sql`${hosts.labels} @> ${JSON.stringify(placementLabels)}::jsonb`,
        sql`${hosts.vcpuCapacity} >= ${vcpu} AND ${hosts.memoryMibCapacity} >= ${memoryMib} AND ${hosts.diskMibCapacity} >= ${diskMib}`,
      ),
    )
    .limit(1);
  return rows.length === 1;
}

/**
 * Sets each host's reservable vCPUs to `ratio` times the offered ones, but never below the used
 * ones. Returns the changed hosts.
 */
export async function applyVcpuOvercommit(db: Tx, ratio: number): Promise<HostId[]> {
  const capacity = sql`greatest(floor(${hosts.vcpuOffered} * ${ratio}::numeric)::int, ${hosts.vcpuUsed})`;
  const rows = await db
    .update(hosts)
    .set({ vcpuCapacity: capacity })
    .where(
      and(
        isNotNull(hosts.vcpuOffered),
        ne(hosts.state, "retired"),
        sql`${hosts.vcpuCapacity} <> ${capacity}`,
      ),
    )
    .returning({ id: hosts.id });
  return rows.map(({ id }) => id);
}
