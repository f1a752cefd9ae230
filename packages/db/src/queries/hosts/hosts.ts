import type { HostEventType, HostId, RegisterRequest } from "@torpor/contracts";
import { planEndOfDebt } from "@torpor/plans";
import { type HostRequest, LEASED_STATES } from "@torpor/state-machine";
import { and, asc, eq, gt, inArray, lt, ne, sql } from "drizzle-orm";
import type { Database, Tx } from "../../database.ts";
import { hosts, sandboxes } from "../../schema.ts";
import { applyWithin } from "../sandboxes/apply-plans.ts";
import { holdPendingDeletes } from "../sandboxes/deletions.ts";
import { giveUpDrain } from "../drains/drains.ts";
import { isResidentOn } from "../sandboxes/sandbox-row.ts";
import { dropHostChecks } from "./host-checks.ts";
import {
  type HostMoved,
  type HostRow,
  lockHost,
  moveHost,
  recordHostEvent,
} from "./host-events.ts";
import { couldBeRenewed } from "./lease-service.ts";

export const leaseEnd = (leaseMs: number) => sql`now() + ${`${leaseMs} milliseconds`}::interval`;
export const wasRevoked = (hostId: HostId, at: Date) =>
  `host ${hostId} was revoked at ${at.toISOString()}; let it join again with a token of its own (./torpor hosts token --host ${hostId})`;
const byItself = (hostId: HostId) => `host:${hostId}`;

/**
 * Inserts or refreshes a host with the images that it reports, and starts its lease. A cordoned
 * host stays cordoned; a retired host stays retired and gets no lease. `vcpuOvercommit` times the
 * offered vCPUs may be reserved.
 */
export async function registerHost(
  db: Database,
  request: RegisterRequest,
  leaseMs: number,
  vcpuOvercommit = 1,
): Promise<{ granted: boolean; reason?: string }> {
  const vcpuOffered = Math.floor(request.capacity.vcpu);
  // Computed in the database, as in applyVcpuOvercommit: binary fractions can round differently.
  const vcpuCapacity = sql`floor(${vcpuOffered}::int * ${vcpuOvercommit}::numeric)::int`;
  return await db.transaction(async (tx) => {
    const facts = {
      region: request.region,
      dataPlaneUrl: request.dataPlaneUrl,
      ticketKey: request.ticketKey ?? null,
      commandKey: request.commandKey ?? null,
      // A host that was revoked during its registration gets no renewal.
      revokedAt: sql`(SELECT revoked_at FROM host_admissions WHERE host_id = ${request.hostId})`,
      labels: request.labels,
      driver: request.driver,
      driverFingerprint: request.driverFingerprint,
      restorableFingerprints: request.restorableFingerprints ?? [request.driverFingerprint],
      agentVersion: request.agentVersion,
      hasFence: request.fence?.isAlive ?? false,
      images: request.images.map(({ templateName, sha256 }) => ({ templateName, sha256 })),
      imageSha256s: request.images.map((image) => image.sha256),
      vcpuOffered,
      leaseExpiresAt: leaseEnd(leaseMs),
      registeredAt: sql`now()`,
      reconciledInventory: null,
    };
    const { hostId, capacity } = request;
    const known = await lockHost(tx, hostId);
    const event = { hostId, fact: "registered" as const, requestedBy: byItself(hostId) };
    if (known === undefined) {
      const offered = {
        vcpuCapacity,
        memoryMibCapacity: capacity.memoryMib,
        diskMibCapacity: capacity.diskMib,
      };
      await tx.insert(hosts).values({ ...facts, ...offered, id: hostId, state: "ready" });
      await recordHostEvent(tx, { ...event, from: null, to: "ready" });
    } else {
      const offered = {
        vcpuCapacity: sql`greatest(${vcpuCapacity}, ${hosts.vcpuUsed})`,
        memoryMibCapacity: sql`greatest(${capacity.memoryMib}::int, ${hosts.memoryMibUsed})`,
        diskMibCapacity: sql`greatest(${capacity.diskMib}::int, ${hosts.diskMibUsed})`,
      };
      const patch = { ...facts, ...offered };
      const moved = await moveHost(tx, {
        host: known,
        event: "register",
        ...event,
        fact: "returned",
        patch,
      });
      if (moved.kind === "refused")
        return { granted: false, reason: `host ${hostId} is retired; register it under a new id` };
      if (moved.kind === "stay")
        await recordHostEvent(tx, { ...event, from: known.state, to: known.state });
    }
    return { granted: true };
  });
}

/**
 * Extends a host's lease, and records whether a fence guards its VMs. Refused for a host that is
 * revoked, retired or unknown; an unknown host has to register.
 */
export async function renewLease(
  db: Database,
  hostId: HostId,
  leaseMs: number,
  hasFence: boolean,
): Promise<{ granted: boolean; reason?: string }> {
  return await db.transaction(async (tx) => {
    const host = await lockHost(tx, hostId);
    if (host === undefined) return { granted: false, reason: `host ${hostId} is not registered` };
    if (host.revokedAt !== null)
      return { granted: false, reason: wasRevoked(hostId, host.revokedAt) };
    // The inventory of a lost host is compared again; other hosts keep theirs.
    const forgets = host.state === "lost" ? { reconciledInventory: null } : {};
    const patch = { leaseExpiresAt: leaseEnd(leaseMs), hasFence, ...forgets };
    const moved = await moveHost(tx, {
      host,
      event: "renew",
      fact: "returned",
      requestedBy: byItself(hostId),
      patch,
    });
    return moved.kind === "refused"
      ? { granted: false, reason: `host ${hostId} is retired` }
      : { granted: true };
  });
}

/**
 * Marks hosts whose lease ended as `lost`, unless no scheduler could have renewed the lease.
 * Returns their rows from before.
 */
export async function markLostHosts(db: Database, leaseMs: number): Promise<HostRow[]> {
  return await db.transaction(async (tx) => {
    const silent = await tx
      .select()
      .from(hosts)
      .where(
        and(
          inArray(hosts.state, [...LEASED_STATES]),
          lt(hosts.leaseExpiresAt, sql`now()`),
          couldBeRenewed(leaseMs),
        ),
      )
      .for("update", { skipLocked: true });
    for (const host of silent) {
      const heartbeat =
        host.lastHeartbeatAt === null
          ? "It has never sent a heartbeat"
          : `Its last heartbeat was at ${host.lastHeartbeatAt.toISOString()}`;
      const message = `It has not renewed its lease, which ended at ${host.leaseExpiresAt.toISOString()}. ${heartbeat}.`;
      const cause = { code: "LEASE_ENDED", message };
      await moveHost(tx, {
        host,
        event: "lease_ended",
        fact: "lost",
        requestedBy: "system:lease",
        cause,
      });
    }
    return silent;
  });
}

/** Hosts that are not retired, by id: a page after `afterId`, or all. */
export async function listHosts(
  db: Tx,
  page?: { limit: number; afterId: HostId | undefined },
): Promise<HostRow[]> {
  const isOn = page?.afterId === undefined ? undefined : gt(hosts.id, page.afterId);
  const rows = db
    .select()
    .from(hosts)
    .where(and(ne(hosts.state, "retired"), isOn))
    .orderBy(asc(hosts.id))
    .$dynamic();
  return await (page === undefined ? rows : rows.limit(page.limit));
}

export async function findHost(db: Tx, hostId: HostId): Promise<HostRow | undefined> {
  const [row] = await db.select().from(hosts).where(eq(hosts.id, hostId));
  return row;
}

export type HostChanged =
  | HostMoved
  | { kind: "not_found" }
  | { kind: "has_sandboxes"; host: HostRow; sandboxes: number };

const FACTS: Record<Exclude<HostRequest, "drain" | "abort_drain">, HostEventType> = {
  cordon: "cordoned",
  uncordon: "uncordoned",
  retire: "retired",
};

/**
 * Applies an operator's request, except drains (drains.ts). A host with sandboxes is not retired,
 * because nothing would manage them. Pending deletes do not block a lost host: it can no longer
 * clean up, so they end with it.
 */
export async function changeHost(
  db: Database,
  hostId: HostId,
  request: keyof typeof FACTS,
  requestedBy: string,
): Promise<HostChanged> {
  return await db.transaction(async (tx) => {
    const deleted = request === "retire" ? await holdPendingDeletes(tx, hostId) : [];
    const host = await lockHost(tx, hostId);
    if (host === undefined) return { kind: "not_found" };
    if (request === "retire") {
      const owesNothing = host.state === "lost";
      // Placement claims capacity on the host's row, which is locked here: no sandbox can arrive
      // between this count and the move.
      const count =
        (await tx.$count(sandboxes, isResidentOn(hostId))) - (owesNothing ? deleted.length : 0);
      if (count > 0) return { kind: "has_sandboxes", host, sandboxes: count };
      await applyWithin(tx, deleted.map(planEndOfDebt));
    }
    const moved = await moveHost(tx, { host, event: request, fact: FACTS[request], requestedBy });
    if (request === "retire" && moved.kind === "moved") {
      await giveUpDrain(tx, hostId);
      await dropHostChecks(tx, hostId);
    }
    return moved;
  });
}

/**
 * Number of sandboxes of each host, by state. A sandbox in transit also counts on the host that it
 * was sent from, because it may return.
 */
export async function countSandboxes(
  db: Tx,
  hostIds: HostId[],
): Promise<Map<HostId, Record<string, number>>> {
  if (hostIds.length === 0) return new Map();
  // Per host, by index: no row of the table is read.
  const rows = await db.execute<{ hostId: HostId; state: string; count: number }>(sql`
    SELECT named.id AS "hostId", resident.state, count(*)::int AS count
    FROM jsonb_array_elements_text(${JSON.stringify(hostIds)}::jsonb) AS named(id) CROSS JOIN LATERAL (
      SELECT state FROM sandboxes WHERE host_id = named.id
      UNION ALL
      SELECT state FROM sandboxes WHERE origin_host_id = named.id AND host_id IS DISTINCT FROM named.id) resident
    GROUP BY named.id, resident.state`);
  const counts = new Map<HostId, Record<string, number>>();
  for (const { hostId, state, count } of rows)
    counts.set(hostId, { ...counts.get(hostId), [state]: count });
  return counts;
}
