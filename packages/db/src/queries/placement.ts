/**
 * What placement reads, and what holds a choice to the facts of the moment at which it is claimed.
 *
 * A choice may be made from rows that are a little old. So whoever claims it looks once more, with
 * the rows locked (apply_plans): at capacity, at the host's state and facts, and at the
 * anti-affinity key.
 */
import { and, asc, eq, gt, inArray, isNotNull, isNull, ne, notInArray, sql } from "drizzle-orm";
import {
  LEASED_STATES,
  OPERATION_KINDS,
  OPERATION_TARGET,
  TOMBSTONED_STATES,
} from "@torpor/state-machine";
import type { Tx } from "../database.ts";
import { isOneOf } from "../literals.ts";
import { hosts, operations, sandboxes } from "../schema.ts";
import type { HostRow } from "./host-events.ts";
import type { SandboxRow } from "./move-sandbox.ts";

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
  /**
   * Sandboxes that it starts at once, as it said last; null: it has not said, or keeps none
   * waiting.
   */
  startsAtOnce: number | null;
  /** Those that it has been told to start, and has not reported on. */
  startsUnderWay: number;
};

/** What begins a run on the host that it is assigned to. */
const STARTS = OPERATION_KINDS.filter((kind) => OPERATION_TARGET[kind] === "running");

/** Hosts with a running lease, of which none was revoked. */
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
 * The same, and how many would count if their lease ran: lost, whether anybody has marked them yet
 * or not. In one statement: a lease that ends between two would count its host among both.
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
 * Hosts that have a sandbox of the same organization and key, or get it back when it does not
 * arrive elsewhere; `exceptId` does not count. Empty without a key.
 */
export async function listHostsOfKey(
  db: Tx,
  { organizationId, antiAffinity }: Separated,
  exceptId?: string,
): Promise<string[]> {
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

/** Whether a host that is registered could take it if nothing else were there. */
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
 * Brings what may be reserved of each host's vCPUs to `ratio` times what it offers, but never below
 * what is used. Returns the hosts that changed.
 */
export async function applyVcpuOvercommit(db: Tx, ratio: number): Promise<string[]> {
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
