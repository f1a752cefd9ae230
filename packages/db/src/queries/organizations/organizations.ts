import { asc, eq, gt } from "drizzle-orm";
import type { Tx } from "../../database.ts";
import { organizations } from "../../schema.ts";

export type OrganizationRow = typeof organizations.$inferSelect;

/** Undefined when the name is taken. */
export async function createOrganization(
  db: Tx,
  name: string,
): Promise<OrganizationRow | undefined> {
  const [row] = await db.insert(organizations).values({ name }).onConflictDoNothing().returning();
  return row;
}

export async function findOrganization(db: Tx, name: string): Promise<OrganizationRow | undefined> {
  const [row] = await db.select().from(organizations).where(eq(organizations.name, name));
  return row;
}

export async function findOrganizationById(
  db: Tx,
  id: number,
): Promise<OrganizationRow | undefined> {
  const [row] = await db.select().from(organizations).where(eq(organizations.id, id));
  return row;
}

/** Organizations after `afterId`, oldest first. */
export async function listOrganizations(
  db: Tx,
  limit: number,
  afterId = 0,
): Promise<OrganizationRow[]> {
  return await db
    .select()
    .from(organizations)
    .where(gt(organizations.id, afterId))
    .orderBy(asc(organizations.id))
    .limit(limit);
}
