/**
 * Creates that get no slot at the database: one that has begun is deleted, one that has not is left
 * alone.
 */
import {
  createTemplate,
  forEveryOrganization,
  openDatabase,
  registerHost,
  type TakeTurn,
} from "@torpor/db";
import { aHost, openTestDatabase, sharedPostgres, type TestDatabase, until } from "@torpor/testkit";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { DEFAULT_LIMITS } from "../src/deps.ts";
import { tooManyRequests } from "../src/http/errors.ts";
import { appWith } from "./support/app.ts";

const TEMPLATE = "code-interpreter";
const started = new AsyncDisposableStack();
let database: TestDatabase;
let app: ReturnType<typeof appWith>;
/** True if a slot is refused, by its number since `turns` was set to 0. */
let isRefused: (turn: number) => boolean = () => false;
let turns = 0;
let accepted = () => {};

const takeTurn: TakeTurn = async (work) => {
  turns += 1;
  if (isRefused(turns)) throw tooManyRequests("Too many wait.", 1);
  return await work();
};
const operations = async () => await database.sql`SELECT kind FROM operations ORDER BY created_at`;
const create = () =>
  app.inject({
    method: "POST",
    url: "/v1/sandboxes",
    headers: { "x-api-key": "test-key" },
    payload: { template_name: TEMPLATE },
  });

beforeAll(async () => {
  database = started.use(await openTestDatabase(started.use(sharedPostgres())));
  const host = aHost("host-1");
  await registerHost(database.db, host, 60_000);
  const [image] = host.images;
  if (image === undefined) throw new Error("a host of tests has an image");
  const texts = { displayName: TEMPLATE, description: "", category: "test", language: "python" };
  const facts = { ...texts, ...image.defaults, imageSha256: image.sha256 };
  await createTemplate(database.db, TEMPLATE, facts);
  const handle = openDatabase(database.url, { maxConnections: 4, takeTurn });
  started.defer(() => handle.close());
  app = appWith({
    db: forEveryOrganization(handle.db),
    limits: { ...DEFAULT_LIMITS, waitMs: 200, createDeadlineMs: 100, lookEveryMs: 50 },
    publishCommitted: async () => accepted(),
  });
  started.defer(() => app.close());
  await app.ready();
});
afterAll(async () => {
  await started.disposeAsync();
});
beforeEach(async () => {
  isRefused = () => false;
  accepted = () => {};
  // Caches the key.
  await app.inject({ url: "/v1/sandboxes", headers: { "x-api-key": "test-key" } });
  await database.sql`DELETE FROM operations`;
});

test("a create that was refused its turn was not begun: nothing is asked to delete it", async () => {
  // The first two slots read the template and the hosts; the third is the transaction's.
  turns = 0;
  isRefused = (turn) => turn >= 3;
  expect((await create()).statusCode).toBe(429);
  await new Promise((resolve) => setImmediate(resolve));
  expect(turns).toBe(3);
  expect(await operations()).toEqual([]);
});

test("S41, CS1: one that was begun is deleted, though every look at it, and the first try of that, got no turn", async () => {
  let isBegun = false;
  accepted = () => {
    if (isBegun) return;
    isBegun = true;
    isRefused = () => true;
  };
  const answer = await create();
  expect(answer.statusCode).toBe(409);
  isRefused = () => false;
  await until("it is deleted", async () =>
    (await operations()).some(({ kind }) => kind === "delete"),
  );
});
