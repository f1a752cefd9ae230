/**
 * An operator defines templates. A seed of the local fleet changes only the image of a template
 * that exists.
 */
import {
  createTemplate,
  deleteTemplate,
  findTemplate,
  listTemplates,
  registerHost,
  seedTemplates,
  updateTemplate,
} from "@torpor/db";
import {
  aHost,
  openTestDatabase,
  type Databases,
  sharedPostgres,
  type TestDatabase,
} from "@torpor/testkit";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

const [OURS, NEWER] = ["a".repeat(64), "b".repeat(64)];
const FACTS = {
  displayName: "Ours",
  description: "",
  category: "test",
  language: "python",
  vcpu: 1,
  memoryMib: 64,
  diskMib: 16,
  imageSha256: OURS,
};

let postgres: Databases;
let database: TestDatabase;
beforeAll(async () => {
  postgres = sharedPostgres();
  database = await openTestDatabase(postgres);
});
afterAll(async () => {
  await database[Symbol.asyncDispose]();
  await postgres[Symbol.asyncDispose]();
});
beforeEach(async () => {
  await database.sql`TRUNCATE templates CASCADE`;
});

const seed = async (imageSha256: string) =>
  await seedTemplates(database.url, [
    { ...FACTS, name: "ours", displayName: "Seeded", imageSha256 },
  ]);

test("is made once, changed, deleted, and made again", async () => {
  const { db } = database;
  expect(await createTemplate(db, "ours", FACTS)).toMatchObject({ id: "ours", isActive: true });
  expect(await createTemplate(db, "ours", { ...FACTS, vcpu: 2 })).toBeUndefined();
  const changed = await updateTemplate(db, "ours", { imageSha256: NEWER });
  expect(changed).toMatchObject({ imageSha256: NEWER, displayName: "Ours", vcpu: 1 });
  expect(await deleteTemplate(db, "ours")).toBe(true);
  expect(await deleteTemplate(db, "ours")).toBe(false);
  expect(await updateTemplate(db, "ours", { vcpu: 2 })).toBeUndefined();
  expect(await listTemplates(db)).toEqual([]);
  expect(await createTemplate(db, "ours", { ...FACTS, vcpu: 4 })).toMatchObject({ vcpu: 4 });
});

test("a host's registration makes none and changes none", async () => {
  const { db } = database;
  await createTemplate(db, "code-interpreter", { ...FACTS, imageSha256: NEWER });
  const [image] = aHost("host-1").images;
  if (image === undefined) throw new Error("a host of tests has an image");
  const images = [image, { ...image, templateName: "other" }];
  await registerHost(db, aHost("host-1", { images }), 60_000);
  const names = (await listTemplates(db)).map(({ name, imageSha256 }) => [name, imageSha256]);
  expect(names).toEqual([["code-interpreter", NEWER]]);
});

test("a seed makes what there never was, moves the image, and leaves the rest as it was said", async () => {
  const { db } = database;
  await seed(OURS);
  expect(await findTemplate(db, "ours")).toMatchObject({
    displayName: "Seeded",
    imageSha256: OURS,
  });
  await updateTemplate(db, "ours", { displayName: "Said", memoryMib: 128 });
  await seed(NEWER);
  expect(await findTemplate(db, "ours")).toMatchObject({
    displayName: "Said",
    memoryMib: 128,
    imageSha256: NEWER,
  });
  await deleteTemplate(db, "ours");
  await seed(OURS);
  expect(await findTemplate(db, "ours")).toBeUndefined();
});
