/**
 * Templates, from which sandboxes start. Operators define templates. Hosts report which images they
 * hold, and that changes no template.
 */
import type { HostId } from "@torpor/contracts";
import { and, asc, eq, inArray, ne, sql } from "drizzle-orm";
import type { Database, Tx } from "../../database.ts";
import { openDatabase } from "../../client.ts";
import { templateImages, templates } from "../../schema.ts";
import type { HostRow } from "../hosts/host-events.ts";

export type TemplateRow = typeof templates.$inferSelect;

/** Fields of a template that an operator sets, besides the name. */
export type TemplateFacts = Pick<
  TemplateRow,
  | "displayName"
  | "description"
  | "category"
  | "language"
  | "vcpu"
  | "memoryMib"
  | "diskMib"
  | "imageSha256"
>;

/** An active template, by id or name. */
export async function findTemplate(db: Tx, nameOrId: string): Promise<TemplateRow | undefined> {
  const rows = await db.select().from(templates).where(eq(templates.isActive, true));
  return rows.find((row) => row.id === nameOrId) ?? rows.find((row) => row.name === nameOrId);
}

export async function listTemplates(
  db: Tx,
  filter: { category?: string | undefined; language?: string | undefined } = {},
): Promise<TemplateRow[]> {
  const { category, language } = filter;
  return await db
    .select()
    .from(templates)
    .where(
      and(
        eq(templates.isActive, true),
        category === undefined ? undefined : eq(templates.category, category),
        language === undefined ? undefined : eq(templates.language, language),
      ),
    )
    .orderBy(asc(templates.name));
}

/** Undefined when the name is taken. A deleted template becomes active with these settings. */
export async function createTemplate(
  db: Database,
  name: string,
  facts: TemplateFacts,
): Promise<TemplateRow | undefined> {
  return await db.transaction(async (tx) => {
    const [row] = await tx
      .insert(templates)
      .values({ id: name, name, ...facts })
      .onConflictDoUpdate({
        target: templates.id,
        set: { ...facts, isActive: true, updatedAt: sql`now()` },
        setWhere: eq(templates.isActive, false),
      })
      .returning();
    if (row !== undefined) await noteImage(tx, row);
    return row;
  });
}

/** Undefined when no active template has the id. Sandboxes keep what they started with. */
export async function updateTemplate(
  db: Database,
  id: string,
  facts: Partial<TemplateFacts>,
): Promise<TemplateRow | undefined> {
  return await db.transaction(async (tx) => {
    const [row] = await tx
      .update(templates)
      .set({ ...facts, updatedAt: sql`now()` })
      .where(and(eq(templates.id, id), eq(templates.isActive, true)))
      .returning();
    if (row !== undefined) await noteImage(tx, row);
    return row;
  });
}

/** False when there was none. No new sandbox starts from the template; existing ones continue. */
export async function deleteTemplate(db: Tx, id: string): Promise<boolean> {
  const rows = await db
    .update(templates)
    .set({ isActive: false, updatedAt: sql`now()` })
    .where(and(eq(templates.id, id), eq(templates.isActive, true)))
    .returning({ id: templates.id });
  return rows.length > 0;
}

async function noteImage(tx: Tx, { id, imageSha256 }: TemplateRow): Promise<void> {
  await tx
    .insert(templateImages)
    .values({ sha256: imageSha256, templateId: id })
    .onConflictDoNothing();
}

/**
 * Creates the template of each image whose name is new, and updates the image of the others. Their
 * other settings stay, also a deletion.
 */
export async function seedTemplates(
  databaseUrl: string,
  seeds: (TemplateFacts & { name: string })[],
): Promise<void> {
  const handle = openDatabase(databaseUrl, { maxConnections: 1 });
  try {
    for (const { name, ...facts } of seeds)
      await handle.db.transaction(async (tx) => {
        const { imageSha256 } = facts;
        const [row] = await tx
          .insert(templates)
          .values({ id: name, name, ...facts })
          .onConflictDoUpdate({
            target: templates.id,
            set: { imageSha256, updatedAt: sql`now()` },
            setWhere: ne(templates.imageSha256, imageSha256),
          })
          .returning();
        if (row !== undefined) await noteImage(tx, row);
      });
  } finally {
    await handle.close();
  }
}

export interface HostTemplates {
  /** Names of the templates whose image the host holds. */
  held: string[];
  /** Templates for which the host reports an image, but not the one that the operator has set. */
  mismatched: { template: TemplateRow; shownSha256s: string[] }[];
}

type Holder = Pick<HostRow, "id" | "images" | "imageSha256s">;

/** By host id. Images of no template are ignored. */
export async function compareImages(db: Tx, hosts: Holder[]): Promise<Map<HostId, HostTemplates>> {
  const known = await listTemplates(db);
  return new Map(hosts.map((host) => [host.id, imagesOf(host, known)]));
}

/** The same for a registration: templates that it names with another image. */
export async function findMismatchedImages(
  db: Tx,
  images: HostRow["images"],
): Promise<HostTemplates["mismatched"]> {
  const names = [...new Set(images.map(({ templateName }) => templateName))];
  if (names.length === 0) return [];
  const isNamed = and(eq(templates.isActive, true), inArray(templates.name, names));
  const known = await db.select().from(templates).where(isNamed);
  return imagesOf({ images, imageSha256s: images.map(({ sha256 }) => sha256) }, known).mismatched;
}

function imagesOf(host: Omit<Holder, "id">, known: TemplateRow[]): HostTemplates {
  const digests = new Set(host.imageSha256s);
  const shown = Map.groupBy(host.images, ({ templateName }) => templateName);
  const [held, others] = [
    known.filter(({ imageSha256 }) => digests.has(imageSha256)),
    known.filter(({ imageSha256 }) => !digests.has(imageSha256)),
  ];
  const mismatched = others.flatMap((template) => {
    const shownSha256s = (shown.get(template.name) ?? []).map(({ sha256 }) => sha256);
    return shownSha256s.length === 0 ? [] : [{ template, shownSha256s }];
  });
  return { held: held.map(({ name }) => name), mismatched };
}
