/**
 * Admissions of hosts, and the tokens with which hosts join.
 *
 * HA1  A token admits one host. The same host may send the same request again, with the same keys,
 *      because the reply may have been lost. A second bearer of the token gets nothing of use.
 * HA2  A token that names no host does not admit an existing host, so it cannot take over a host.
 * HA3  A revoked host has no keys and gets no lease.
 */
import { createHash } from "node:crypto";
import { type HostId, unverifiedHostId } from "@torpor/contracts";
import { and, asc, desc, eq, gt, isNull, lt, sql } from "drizzle-orm";
import type { Database, Tx } from "../../database.ts";
import { openDatabase } from "../../client.ts";
import { hostAdmissions, hosts, hostTokens } from "../../schema.ts";
import { inTransaction } from "../../transaction.ts";
import { lockHost, recordHostEvent } from "./host-events.ts";

export type HostAdmissionRow = typeof hostAdmissions.$inferSelect;
/** A token without the digest of its secret. */
export type HostTokenRow = Omit<typeof hostTokens.$inferSelect, "secretSha256">;

/** How long a replaced key stays valid: the host needs the old key until it is restarted. */
const OVERLAP = sql`interval '1 day'`;

export interface NewHostToken {
  secret: string;
  hostId: HostId | null;
  dataPlaneHost: string | null;
  createdBy: string;
  lifetimeSeconds: number;
}

const digest = (secret: string) => createHash("sha256").update(secret).digest("hex");

export async function createHostToken(db: Tx, token: NewHostToken): Promise<HostTokenRow> {
  const { secret, lifetimeSeconds, ...facts } = token;
  const expiresAt = sql`now() + ${`${lifetimeSeconds} seconds`}::interval`;
  const [row] = await db
    .insert(hostTokens)
    .values({ ...facts, secretSha256: digest(secret), expiresAt })
    .returning();
  if (row === undefined) throw new Error("the token that was made is not there");
  return row;
}

interface Page<Id> {
  limit: number;
  /** Id of the last row of the previous page. */
  after: Id | undefined;
}

/** Newest first. */
export async function listHostTokens(
  db: Tx,
  { limit, after }: Page<number>,
): Promise<HostTokenRow[]> {
  const older = after === undefined ? undefined : lt(hostTokens.id, after);
  return await db.select().from(hostTokens).where(older).orderBy(desc(hostTokens.id)).limit(limit);
}

/** Ends an unused token. Undefined: there is no such token. */
export async function revokeHostToken(db: Tx, id: number): Promise<HostTokenRow | undefined> {
  await db
    .update(hostTokens)
    .set({ revokedAt: sql`now()` })
    .where(and(eq(hostTokens.id, id), isNull(hostTokens.revokedAt), isNull(hostTokens.usedAt)));
  const [row] = await db.select().from(hostTokens).where(eq(hostTokens.id, id));
  return row;
}

/** True if a token may admit a host; checked before anything is made for its bearer. */
export async function isHostTokenKnown(db: Tx, secret: string): Promise<boolean> {
  const [row] = await db
    .select({ id: hostTokens.id })
    .from(hostTokens)
    .where(and(eq(hostTokens.secretSha256, digest(secret)), isNull(hostTokens.revokedAt)));
  return row !== undefined;
}

export interface Joining {
  secret: string;
  hostId: HostId;
  natsPublicKey: string;
  /** Digest of the key in the host's certificate request. */
  certificateKeySha256: string;
}

export type Joined =
  | { kind: "joined"; admission: HostAdmissionRow }
  | {
      kind: "refused";
      why: "unknown" | "used" | "ended" | "another_host" | "host_is_there" | "retired";
    };

/** Admits a host. `certificateExpiresAt`: end of the certificate that the host gets, if any. */
export async function joinHost(
  db: Database,
  joining: Joining,
  certificateExpiresAt: Date | null,
): Promise<Joined> {
  return await inTransaction<Joined, Joined>(db, async (tx, rollback) => {
    const refuse = (why: Extract<Joined, { kind: "refused" }>["why"]) =>
      rollback({ kind: "refused", why });
    const { hostId, natsPublicKey, certificateKeySha256 } = joining;
    // A new host has no row to lock.
    await tx.execute(sql`SELECT pg_advisory_xact_lock(hashtext(${`host ${hostId}`}))`);
    const [found] = await tx
      .select({ token: hostTokens, isOver: sql<boolean>`${hostTokens.expiresAt} <= now()` })
      .from(hostTokens)
      .where(eq(hostTokens.secretSha256, digest(joining.secret)))
      .for("update");
    if (found === undefined) return refuse("unknown");
    const { token, isOver } = found;
    if (token.revokedAt !== null) return refuse("ended");
    if (token.hostId !== null && token.hostId !== hostId) return refuse("another_host");
    const host = await lockHost(tx, hostId);
    if (host?.state === "retired") return refuse("retired");
    const [known] = await tx
      .select()
      .from(hostAdmissions)
      .where(eq(hostAdmissions.hostId, hostId))
      .for("update");
    const isRepeat =
      token.usedBy === hostId &&
      known?.natsPublicKey === natsPublicKey &&
      known.certificateKeySha256 === certificateKeySha256 &&
      known.revokedAt === null;
    if (token.usedAt !== null && !isRepeat) return refuse("used");
    if (isOver && !isRepeat) return refuse("ended");
    if (
      token.usedAt === null &&
      token.hostId === null &&
      (known !== undefined || host !== undefined)
    )
      return refuse("host_is_there");
    await tx
      .update(hostTokens)
      .set({ usedAt: sql`now()`, usedBy: hostId })
      .where(eq(hostTokens.id, token.id));
    // A join that broke off may be repeated with another token and the same key.
    const hasItsKey = known?.natsPublicKey === natsPublicKey && known.revokedAt === null;
    const replaced = hasItsKey
      ? {}
      : { natsPublicKeyBefore: keyBefore(known), beforeGoodUntil: sql`now() + ${OVERLAP}` };
    const facts = {
      natsPublicKey,
      certificateKeySha256,
      ...replaced,
      dataPlaneHost: token.dataPlaneHost,
      certificateExpiresAt,
      admittedBy: `host-token:${token.id}`,
      admittedAt: sql`now()`,
      revokedAt: null,
    };
    const [admission] = await tx
      .insert(hostAdmissions)
      .values({ ...facts, hostId })
      .onConflictDoUpdate({ target: hostAdmissions.hostId, set: facts })
      .returning();
    if (admission === undefined) throw new Error("the admission that was made is not there");
    await tx.update(hosts).set({ revokedAt: null }).where(eq(hosts.id, hostId));
    if (host !== undefined && !isRepeat)
      await recordHostEvent(tx, {
        hostId,
        fact: "joined",
        from: host.state,
        to: host.state,
        requestedBy: facts.admittedBy,
      });
    return { kind: "joined", admission };
  });
}

/** No key of a revoked host is valid. */
const keyBefore = (known: HostAdmissionRow | undefined) =>
  known === undefined || known.revokedAt !== null ? null : known.natsPublicKey;

export async function findHostAdmission(
  db: Tx,
  hostId: HostId,
): Promise<HostAdmissionRow | undefined> {
  const [row] = await db.select().from(hostAdmissions).where(eq(hostAdmissions.hostId, hostId));
  return row;
}

/** Admissions by host, including revoked hosts, but not retired hosts. */
export async function listHostAdmissions(
  db: Tx,
  { limit, after }: Page<HostId>,
): Promise<(HostAdmissionRow & { isBeforeGood: boolean })[]> {
  const isBeforeGood = sql<boolean>`coalesce(${hostAdmissions.beforeGoodUntil} > now(), false)`;
  const rows = await db
    .select({ admission: hostAdmissions, isBeforeGood })
    .from(hostAdmissions)
    .leftJoin(hosts, eq(hosts.id, hostAdmissions.hostId))
    .where(
      and(
        sql`${hosts.state} IS DISTINCT FROM 'retired'`,
        after === undefined ? undefined : gt(hostAdmissions.hostId, after),
      ),
    )
    .orderBy(asc(hostAdmissions.hostId))
    .limit(limit);
  return rows.map((row) => ({ ...row.admission, isBeforeGood: row.isBeforeGood }));
}

/**
 * Revokes a host: it gets no lease, and its keys in `listHostAdmissions` are void. Undefined: the
 * host never joined.
 */
export async function revokeHost(
  db: Database,
  hostId: HostId,
  requestedBy: string,
): Promise<HostAdmissionRow | undefined> {
  return await inTransaction(db, async (tx) => {
    const host = await lockHost(tx, hostId);
    const [revoked] = await tx
      .update(hostAdmissions)
      .set({ revokedAt: sql`now()` })
      .where(and(eq(hostAdmissions.hostId, hostId), isNull(hostAdmissions.revokedAt)))
      .returning();
    if (revoked === undefined) return await findHostAdmission(tx, hostId);
    await tx
      .update(hosts)
      .set({ revokedAt: sql`now()` })
      .where(eq(hosts.id, hostId));
    if (host !== undefined)
      await recordHostEvent(tx, {
        hostId,
        fact: "revoked",
        from: host.state,
        to: host.state,
        requestedBy,
      });
    return revoked;
  });
}

/**
 * Admits hosts that do not join with a token: hosts of a local fleet, and hosts whose keys
 * infra/nats makes (`natsPublicKey` null). A revoked host stays revoked. `by` becomes `admittedBy`.
 */
export async function seedHostAdmissions(
  databaseUrl: string,
  hosts: { hostId: string; natsPublicKey: string | null }[],
  by: string,
): Promise<void> {
  if (hosts.length === 0) return;
  const handle = openDatabase(databaseUrl, { maxConnections: 1 });
  try {
    await handle.db
      .insert(hostAdmissions)
      .values(
        hosts.map((host) => ({
          ...host,
          hostId: unverifiedHostId(host.hostId),
          admittedBy: by,
        })),
      )
      .onConflictDoUpdate({
        target: hostAdmissions.hostId,
        set: {
          natsPublicKey: sql`coalesce(excluded.nats_public_key, ${hostAdmissions.natsPublicKey})`,
        },
        setWhere: isNull(hostAdmissions.revokedAt),
      });
  } finally {
    await handle.close();
  }
}
