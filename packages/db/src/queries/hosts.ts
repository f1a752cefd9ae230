import type { RegisterRequest } from "@torpor/contracts";
import { and, asc, eq, gt, inArray, lt, ne, sql } from "drizzle-orm";
import type { Database, Tx } from "../client.ts";
import type { HostState } from "../host-states.ts";
import { hosts, templateImages, templates } from "../schema.ts";

export type HostRow = typeof hosts.$inferSelect;
export type TemplateRow = typeof templates.$inferSelect;

const leaseEnd = (leaseMs: number) => sql`now() + ${`${leaseMs} milliseconds`}::interval`;

/** Makes or refreshes a host with its templates and images, and starts its lease. A cordoned host stays cordoned; a retired one stays retired and is not granted a lease. */
export async function registerHost(
  db: Database,
  request: RegisterRequest,
  leaseMs: number,
): Promise<{ granted: boolean; reason?: string }> {
  return await db.transaction(async (tx) => {
    const facts = {
      region: request.region,
      dataPlaneUrl: request.dataPlaneUrl,
      labels: request.labels,
      driver: request.driver,
      driverFingerprint: request.driverFingerprint,
      restorableFingerprints: request.restorableFingerprints ?? [request.driverFingerprint],
      agentVersion: request.agentVersion,
      hasFence: request.fence?.isAlive ?? false,
      imageSha256s: request.images.map((image) => image.sha256),
      vcpuCapacity: sql`greatest(${Math.floor(request.capacity.vcpu)}::int, ${hosts.vcpuUsed})`,
      memoryMibCapacity: sql`greatest(${request.capacity.memoryMib}::int, ${hosts.memoryMibUsed})`,
      diskMibCapacity: sql`greatest(${request.capacity.diskMib}::int, ${hosts.diskMibUsed})`,
      leaseExpiresAt: leaseEnd(leaseMs),
      registeredAt: sql`now()`,
    };
    const [known] = await tx.select().from(hosts).where(eq(hosts.id, request.hostId)).for("update");
    if (known?.state === "retired") return { granted: false, reason: `host ${request.hostId} is retired; register it under a new id` };
    if (known === undefined) {
      await tx.insert(hosts).values({
        ...facts,
        id: request.hostId,
        state: "ready",
        vcpuCapacity: Math.floor(request.capacity.vcpu),
        memoryMibCapacity: request.capacity.memoryMib,
        diskMibCapacity: request.capacity.diskMib,
      });
    } else {
      await tx
        .update(hosts)
        .set({ ...facts, ...backFromLost(known) })
        .where(eq(hosts.id, known.id));
    }
    await recordImages(tx, request);
    return { granted: true };
  });
}

function backFromLost(host: HostRow): { state: HostState; stateBeforeLost: null } | Record<string, never> {
  return host.state === "lost" ? { state: host.stateBeforeLost ?? "ready", stateBeforeLost: null } : {};
}

async function recordImages(tx: Tx, request: RegisterRequest): Promise<void> {
  for (const image of request.images.toSorted((a, b) => a.templateName.localeCompare(b.templateName))) {
    const facts = {
      displayName: image.displayName,
      description: image.description,
      category: image.category,
      language: image.language,
      vcpu: image.defaults.vcpu,
      memoryMib: image.defaults.memoryMib,
      diskMib: image.defaults.diskMib,
      imageSha256: image.sha256,
    };
    await tx
      .insert(templates)
      .values({ id: image.templateName, name: image.templateName, ...facts })
      .onConflictDoUpdate({
        target: templates.id,
        set: { ...facts, updatedAt: sql`now()` },
        setWhere: ne(templates.imageSha256, image.sha256),
      });
    await tx.insert(templateImages).values({ sha256: image.sha256, templateId: image.templateName }).onConflictDoNothing();
  }
}

/** Extends a host's lease, and notes whether a fence guards its VMs. Not granted to a host that is unknown or retired: it has to register. */
export async function renewLease(
  db: Database,
  hostId: string,
  leaseMs: number,
  hasFence: boolean,
): Promise<{ granted: boolean; reason?: string }> {
  return await db.transaction(async (tx) => {
    const [host] = await tx.select().from(hosts).where(eq(hosts.id, hostId)).for("update");
    if (host === undefined) return { granted: false, reason: `host ${hostId} is not registered` };
    if (host.state === "retired") return { granted: false, reason: `host ${hostId} is retired` };
    await tx
      .update(hosts)
      .set({ leaseExpiresAt: leaseEnd(leaseMs), hasFence, ...backFromLost(host) })
      .where(eq(hosts.id, hostId));
    return { granted: true };
  });
}

export async function recordBeat(db: Tx, hostId: string, load: Record<string, number>): Promise<void> {
  await db
    .update(hosts)
    .set({ load, lastBeatAt: sql`now()` })
    .where(eq(hosts.id, hostId));
}

/** Hosts whose lease ran out become `lost`. Returns their ids. */
export async function markLostHosts(db: Tx): Promise<string[]> {
  const rows = await db
    .update(hosts)
    .set({ stateBeforeLost: hosts.state, state: "lost" })
    .where(and(inArray(hosts.state, ["ready", "cordoned", "draining"]), lt(hosts.leaseExpiresAt, sql`now()`)))
    .returning({ id: hosts.id });
  return rows.map((row) => row.id);
}

export async function listHosts(db: Tx): Promise<HostRow[]> {
  return await db.select().from(hosts).where(ne(hosts.state, "retired")).orderBy(asc(hosts.id));
}

/** Hosts with a running lease, for placement. */
export async function listLeasedHosts(db: Tx): Promise<HostRow[]> {
  return await db
    .select()
    .from(hosts)
    .where(and(inArray(hosts.state, ["ready", "cordoned", "draining"]), gt(hosts.leaseExpiresAt, sql`now()`)))
    .orderBy(asc(hosts.id));
}

/** Ready ⇄ cordoned. Undefined when there is no such host; the row as it is when it is in neither state. */
export async function setCordoned(db: Database, hostId: string, cordoned: boolean): Promise<HostRow | undefined> {
  const from: HostState = cordoned ? "ready" : "cordoned";
  const to: HostState = cordoned ? "cordoned" : "ready";
  await db
    .update(hosts)
    .set({ state: to })
    .where(and(eq(hosts.id, hostId), eq(hosts.state, from)));
  await db
    .update(hosts)
    .set({ stateBeforeLost: to })
    .where(and(eq(hosts.id, hostId), eq(hosts.state, "lost"), eq(hosts.stateBeforeLost, from)));
  const [row] = await db.select().from(hosts).where(eq(hosts.id, hostId));
  return row;
}

/** By id or name; active ones only. */
export async function findTemplate(db: Tx, nameOrId: string): Promise<TemplateRow | undefined> {
  const rows = await db.select().from(templates).where(eq(templates.isActive, true));
  return rows.find((row) => row.id === nameOrId) ?? rows.find((row) => row.name === nameOrId);
}

export async function listTemplates(
  db: Tx,
  filter: { category?: string | undefined; language?: string | undefined } = {},
): Promise<TemplateRow[]> {
  return await db
    .select()
    .from(templates)
    .where(
      and(
        eq(templates.isActive, true),
        filter.category === undefined ? undefined : eq(templates.category, filter.category),
        filter.language === undefined ? undefined : eq(templates.language, filter.language),
      ),
    )
    .orderBy(asc(templates.name));
}
