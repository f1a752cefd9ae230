/**
 * API keys. A row is one secret: its scopes never change, and its life is only ever shortened. The
 * clock of the database, which all gateways share, decides whether a key is valid.
 */
import { createHash } from "node:crypto";
import {
  type ApiKeyStatus,
  type SandboxId,
  type Scope,
  SCOPES,
  TENANT_SCOPES,
} from "@torpor/contracts";
import {
  and,
  asc,
  desc,
  eq,
  getTableColumns,
  gt,
  isNull,
  lt,
  or,
  type SQL,
  sql,
} from "drizzle-orm";
import type { Database, Tx } from "../../database.ts";
import { openDatabase } from "../../client.ts";
import { apiKeys, organizations } from "../../schema.ts";
import { inTransaction } from "../../transaction.ts";

/** The sender of a request, and what the sender's key allows. */
export interface ApiKeyOwner {
  apiKeyId: number;
  organizationId: number;
  scopes: Scope[];
  /** Null: the key never expires. */
  expiresAt: Date | null;
}

export interface FoundApiKey extends ApiKeyOwner {
  /** Milliseconds until the key expires, by the clock of the database; null: never. */
  goodForMs: number | null;
}

const isGood = and(
  isNull(apiKeys.revokedAt),
  or(isNull(apiKeys.expiresAt), gt(apiKeys.expiresAt, sql`now()`)),
);

/** The owner of a key; undefined when the key is unknown, revoked or expired. */
export async function findApiKey(db: Tx, apiKey: string): Promise<FoundApiKey | undefined> {
  const { id: apiKeyId, organizationId, scopes, expiresAt } = apiKeys;
  const goodForMs = sql<
    number | null
  >`(extract(epoch FROM ${expiresAt} - now()) * 1000)::double precision`;
  const [row] = await db
    .select({ apiKeyId, organizationId, scopes, expiresAt, goodForMs })
    .from(apiKeys)
    .where(and(eq(apiKeys.keySha256, sha256(apiKey)), isGood));
  return row;
}

/**
 * Keys and the keys that rotations made from them, each with the key that it descends from
 * (`root`). A key that was revoked after its rotation has no heirs. A rotation without overlap
 * revokes the old key at the very time at which it creates the new one.
 */
const heirsOf = (roots: SQL) => sql`heirs AS (
  SELECT id AS root, id, created_at, expires_at, revoked_at, replaced_by
  FROM api_keys WHERE id IN (${roots})
  UNION
  SELECT heirs.root, next.id, next.created_at, next.expires_at, next.revoked_at, next.replaced_by
  FROM heirs JOIN api_keys next ON next.id = heirs.replaced_by
  WHERE heirs.revoked_at IS NULL OR heirs.revoked_at = next.created_at)`;
const isGoodKey = sql`revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())`;

/** True if a key or one of its heirs is valid. */
export async function isApiKeyGood(db: Tx, id: number): Promise<boolean> {
  const rows = await db.execute(
    sql`WITH RECURSIVE ${heirsOf(sql`${id}`)} SELECT FROM heirs WHERE ${isGoodKey} LIMIT 1`,
  );
  return rows.length > 0;
}

/** Credential that a client showed at the edge. */
export type StreamCredential =
  /** A token for a sandbox, of this generation, with the key that requested it if that is known. */
  { sandboxId: SandboxId; generation: number; gotWithKeyId?: number } | { apiKeyId: number };

/** Indexes of the credentials that are no longer valid. One query, however long the list is. */
export async function findEndedCredentials(
  db: Tx,
  shown: readonly StreamCredential[],
): Promise<number[]> {
  const asked = JSON.stringify(shown.map((one, place) => ({ place, ...one })));
  const rows = await db.execute(sql`
    WITH RECURSIVE asked AS MATERIALIZED (
      SELECT * FROM jsonb_to_recordset(${asked}::jsonb) AS one
        (place int, "sandboxId" text, generation int, "gotWithKeyId" int, "apiKeyId" int)),
    ${heirsOf(sql`SELECT "gotWithKeyId" FROM asked`)},
    alive AS (SELECT root FROM heirs WHERE ${isGoodKey})
    SELECT place FROM asked LEFT JOIN sandboxes ON sandboxes.id = "sandboxId"
    WHERE CASE WHEN "apiKeyId" IS NOT NULL
      THEN NOT EXISTS (SELECT FROM api_keys WHERE id = "apiKeyId" AND ${isGoodKey})
      ELSE sandboxes.id IS NULL OR asked.generation < sandboxes.token_generation
        OR ("gotWithKeyId" IS NOT NULL AND "gotWithKeyId" NOT IN (SELECT root FROM alive)) END`);
  return rows.map((row: Record<string, unknown>) => Number(row["place"]));
}

/** Records that a key was used now, unless a use was recorded within the last minute. */
export async function recordApiKeyUse(db: Tx, id: number): Promise<void> {
  const isOld = lt(apiKeys.lastUsedAt, sql`now() - interval '1 minute'`);
  await db
    .update(apiKeys)
    .set({ lastUsedAt: sql`now()` })
    .where(and(eq(apiKeys.id, id), or(isNull(apiKeys.lastUsedAt), isOld)));
}

const { keySha256: _, ...shown } = getTableColumns(apiKeys);
const status = sql<ApiKeyStatus>`CASE WHEN ${apiKeys.revokedAt} IS NOT NULL THEN 'revoked'
  WHEN ${apiKeys.expiresAt} <= now() THEN 'expired' ELSE 'active' END`;

const recordQuery = (db: Tx) =>
  db
    .select({ ...shown, status, organization: organizations.name })
    .from(apiKeys)
    .innerJoin(organizations, eq(organizations.id, apiKeys.organizationId));

/** A key without its secret and without the secret's digest. */
export type ApiKeyRecord = Awaited<ReturnType<typeof recordQuery>>[number];

export async function findApiKeyRecord(db: Tx, id: number): Promise<ApiKeyRecord | undefined> {
  const [record] = await recordQuery(db).where(eq(apiKeys.id, id));
  return record;
}

export interface ApiKeyFilter {
  /** Undefined: all organizations. */
  organizationId: number | undefined;
  status: ApiKeyStatus | undefined;
  limit: number;
  /** Only keys with a lower id. */
  beforeId: number | undefined;
}

/** Newest first. */
export async function listApiKeys(db: Tx, filter: ApiKeyFilter): Promise<ApiKeyRecord[]> {
  const { organizationId, beforeId, limit } = filter;
  return await recordQuery(db)
    .where(
      and(
        organizationId === undefined ? undefined : eq(apiKeys.organizationId, organizationId),
        filter.status === undefined ? undefined : sql`${status} = ${filter.status}`,
        beforeId === undefined ? undefined : lt(apiKeys.id, beforeId),
      ),
    )
    .orderBy(desc(apiKeys.id))
    .limit(limit);
}

export interface NewApiKey {
  organizationId: number;
  name: string;
  scopes: readonly Scope[];
  expiresAt: Date | null;
  createdBy: string;
  /** Only the digest is stored. */
  secret: string;
  /** First characters of the key, for people. */
  hint: string;
}

export async function createApiKey(db: Tx, key: NewApiKey): Promise<ApiKeyRecord> {
  const { secret, scopes, ...rest } = key;
  const [row] = await db
    .insert(apiKeys)
    .values({ ...rest, scopes: [...scopes], keySha256: sha256(secret) })
    .returning({ id: apiKeys.id });
  const record = row === undefined ? undefined : await findApiKeyRecord(db, row.id);
  if (record === undefined) throw new Error("the API key that was made is not there");
  return record;
}

export type RevokedApiKey =
  | { kind: "revoked"; key: ApiKeyRecord }
  | { kind: "not_found" }
  /** No other valid key could manage hosts and keys through the API. */
  | { kind: "last_operator" };

/** Ends a key. Idempotent. */
export async function revokeApiKey(db: Database, id: number): Promise<RevokedApiKey> {
  return await inTransaction(db, async (tx): Promise<RevokedApiKey> => {
    // Every revocation takes these locks in the same order: of two concurrent revocations, the
    // second sees the result of the first.
    const operators = await tx
      .select({ id: apiKeys.id })
      .from(apiKeys)
      .where(and(isGood, sql`${apiKeys.scopes} @> '["operator"]'`))
      .orderBy(asc(apiKeys.id))
      .for("update");
    if (operators.length === 1 && operators[0]?.id === id) return { kind: "last_operator" };
    await tx
      .update(apiKeys)
      .set({ revokedAt: sql`now()` })
      .where(and(eq(apiKeys.id, id), isNull(apiKeys.revokedAt)));
    const key = await findApiKeyRecord(tx, id);
    return key === undefined ? { kind: "not_found" } : { kind: "revoked", key };
  });
}

export interface Rotation {
  /** Secret of the new key. */
  secret: string;
  hint: string;
  /** How long the old key stays valid. */
  overlapSeconds: number;
  requestedBy: string;
}

export type RotatedApiKey =
  | { kind: "rotated"; key: ApiKeyRecord; replaced: ApiKeyRecord }
  | { kind: "not_found" }
  /** The key has ended, or was rotated before, into `replacedBy`. */
  | { kind: "refused"; key: ApiKeyRecord };

/**
 * Makes a copy of a key with a new secret, and ends the old key after the overlap. The new key
 * expires when the old one would have.
 */
export async function rotateApiKey(
  db: Database,
  id: number,
  { secret, hint, overlapSeconds, requestedBy }: Rotation,
): Promise<RotatedApiKey> {
  return await inTransaction(db, async (tx): Promise<RotatedApiKey> => {
    await tx.select({ id: apiKeys.id }).from(apiKeys).where(eq(apiKeys.id, id)).for("update");
    const old = await findApiKeyRecord(tx, id);
    if (old === undefined) return { kind: "not_found" };
    if (old.status !== "active" || old.replacedBy !== null) return { kind: "refused", key: old };
    const { organizationId, name, scopes, expiresAt } = old;
    const grant = { organizationId, name, scopes, expiresAt, createdBy: requestedBy };
    const key = await createApiKey(tx, { ...grant, secret, hint });
    const overlap = sql`now() + ${overlapSeconds} * interval '1 second'`;
    const end =
      overlapSeconds === 0
        ? { revokedAt: sql`now()` }
        : { expiresAt: sql`least(${apiKeys.expiresAt}, ${overlap})` };
    await tx
      .update(apiKeys)
      .set({ ...end, replacedBy: key.id })
      .where(eq(apiKeys.id, id));
    return { kind: "rotated", key, replaced: (await findApiKeyRecord(tx, id)) ?? old };
  });
}

/** True if a valid key can manage hosts and keys through the API. */
export async function hasOperatorKey(databaseUrl: string): Promise<boolean> {
  const handle = openDatabase(databaseUrl, { maxConnections: 1 });
  try {
    const rows = await handle.db
      .select({ id: apiKeys.id })
      .from(apiKeys)
      .where(and(isGood, sql`${apiKeys.scopes} @> '["operator"]'`))
      .limit(1);
    return rows.length > 0;
  } finally {
    await handle.close();
  }
}

export interface ApiKeySeed {
  organization: string;
  apiKey: string;
  name?: string;
  /** The key has every scope. An existing key gets the scopes that it lacks, and loses none. */
  isOperator?: boolean;
}

/** Creates the organization and the key if they do not exist. Idempotent. */
export async function seedApiKey(databaseUrl: string, seed: ApiKeySeed): Promise<void> {
  const handle = openDatabase(databaseUrl, { maxConnections: 1 });
  const { db } = handle;
  const scopes = [...(seed.isOperator === true ? SCOPES : TENANT_SCOPES)];
  try {
    await db.insert(organizations).values({ name: seed.organization }).onConflictDoNothing();
    const [organization] = await db
      .select({ id: organizations.id })
      .from(organizations)
      .where(eq(organizations.name, seed.organization));
    if (organization === undefined)
      throw new Error(`organization ${seed.organization} vanished while it was being seeded`);
    const { name = "default" } = seed;
    await db
      .insert(apiKeys)
      .values({
        organizationId: organization.id,
        name,
        keySha256: sha256(seed.apiKey),
        scopes,
      })
      .onConflictDoUpdate({
        target: apiKeys.keySha256,
        set: {
          scopes: sql`(SELECT jsonb_agg(DISTINCT scope)
            FROM jsonb_array_elements(${apiKeys.scopes} || excluded.scopes) scope)`,
        },
        setWhere: sql`NOT ${apiKeys.scopes} @> excluded.scopes`,
      });
  } finally {
    await handle.close();
  }
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
