import { createHash } from "node:crypto";
import { and, eq, isNull } from "drizzle-orm";
import { openDatabase, type Tx } from "../client.ts";
import { apiKeys, organizations } from "../schema.ts";

export interface ApiKeyOwner {
  apiKeyId: number;
  organizationId: number;
}

/** The organization that a key speaks for; undefined when unknown or revoked. */
export async function findApiKey(db: Tx, apiKey: string): Promise<ApiKeyOwner | undefined> {
  const [row] = await db
    .select({ apiKeyId: apiKeys.id, organizationId: apiKeys.organizationId })
    .from(apiKeys)
    .where(and(eq(apiKeys.keySha256, sha256(apiKey)), isNull(apiKeys.revokedAt)));
  return row;
}

/** Makes the organization and the key exist. Repeating it changes nothing. */
export async function seedApiKey(databaseUrl: string, seed: { organization: string; apiKey: string; name?: string }): Promise<void> {
  const handle = openDatabase(databaseUrl, { maxConnections: 1 });
  const { db } = handle;
  try {
    await db.insert(organizations).values({ name: seed.organization }).onConflictDoNothing();
    const [organization] = await db.select({ id: organizations.id }).from(organizations).where(eq(organizations.name, seed.organization));
    if (organization === undefined) throw new Error(`organization ${seed.organization} vanished while it was being seeded`);
    await db
      .insert(apiKeys)
      .values({ organizationId: organization.id, name: seed.name ?? "default", keySha256: sha256(seed.apiKey) })
      .onConflictDoNothing();
  } finally {
    await handle.close();
  }
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
