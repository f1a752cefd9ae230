/**
 * Row-level security as the routes use it: every statement of a tenant's request on a table with
 * tenants' rows names the tenant's organization.
 */
import {
  createTemplate,
  type Database,
  forEveryOrganization,
  openDatabase,
  registerHost,
  setUpDatabaseUsers,
} from "@torpor/db";
import {
  aHost,
  makeSandbox,
  openTestDatabase,
  type Databases,
  startPostgres,
  type TestDatabase,
} from "@torpor/testkit";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { DEFAULT_LIMITS } from "../../apps/gateway/src/deps.ts";
import { appWith } from "../../apps/gateway/test/support/app.ts";

const started = new AsyncDisposableStack();
const WALLED = /"?\b(sandboxes|operations|sandbox_events|organization_quotas)\b"?/;
const KEY = "test-key";
let server: Databases;
let database: TestDatabase;
let app: ReturnType<typeof appWith>;
let sandboxId: string;
let texts: string[] = [];

/** Connection as the gateway's user, which records every statement. */
function watched(url: string): Database {
  const handle = openDatabase(url, { maxConnections: 4 });
  started.defer(() => handle.close());
  const { $client: client } = handle.db as unknown as {
    $client: { unsafe: Unsafe; begin(body: (tx: Tx) => unknown): unknown };
  };
  type Unsafe = (text: string, ...rest: unknown[]) => unknown;
  type Tx = { unsafe: Unsafe; savepoint: unknown };
  const watch = <T extends { unsafe: Unsafe }>(sql: T) => {
    const unsafe = sql.unsafe.bind(sql);
    sql.unsafe = (text, ...rest) => {
      texts.push(text);
      return unsafe(text, ...rest);
    };
    return sql;
  };
  watch(client);
  const begin = client.begin.bind(client);
  client.begin = (body) => begin((tx) => body(watch(tx)));
  return forEveryOrganization(handle.db);
}

beforeAll(async () => {
  server = started.use(await startPostgres());
  database = started.use(await openTestDatabase(server));
  await setUpDatabaseUsers(database.url, { gateway: "g", scheduler: "s" });
  const [image] = aHost("host-1").images;
  await registerHost(database.db, aHost("host-1"), 60_000);
  await createTemplate(database.db, "code-interpreter", {
    displayName: "Code interpreter",
    description: "",
    category: "test",
    language: "python",
    imageSha256: image?.sha256 ?? "",
    vcpu: 1,
    memoryMib: 64,
    diskMib: 16,
  });
  ({ id: sandboxId } = await makeSandbox(database, "paused"));
  const limits = {
    ...DEFAULT_LIMITS,
    waitMs: 300,
    createDeadlineMs: 200,
    lookWithoutBusEveryMs: 50,
  };
  const url = database.url.replace(/\/\/[^@]+@/, "//torpor_gateway:g@");
  app = appWith({ db: watched(url), limits });
  started.defer(() => app.close());
  await app.ready();
});
afterAll(async () => {
  await started.disposeAsync();
});
beforeEach(() => {
  texts = [];
});

const ROUTES = [
  ["GET", "/v1/sandboxes", 200],
  ["GET", "/v1/sandboxes/:id", 200],
  ["GET", "/v1/sandboxes/:id/events", 200],
  ["GET", "/v1/operations/:operation", 200],
  ["PATCH", "/v1/sandboxes/:id", 200, { auto_resume: true }],
  ["PUT", "/v1/sandboxes/:id/timeout", 200, { timeout_seconds: 60 }],
  ["POST", "/v1/sandboxes/:id/token/refresh", 200],
  ["POST", "/v1/sandboxes/:id/token/revoke", 200],
  ["POST", "/v1/sandboxes/:id/preview-links", 201, { port: 3000 }],
  ["POST", "/v1/sandboxes/:id/pause", 200],
  ["POST", "/v1/sandboxes/:id/start", 409],
  ["POST", "/v1/sandboxes/:id/resume", 503],
  ["POST", "/v1/sandboxes/:id/stop", 409],
  ["POST", "/v1/sandboxes", 409, { template_name: "code-interpreter" }],
  ["DELETE", "/v1/sandboxes/:id", 503],
  ["GET", "/v1/organizations/:organization/quotas", 200],
] as const;

test.each(ROUTES)(
  "%s %s asks for its own organization",
  async (method, path, status, body?: object) => {
    const [operation] = await database.sql`SELECT id FROM operations LIMIT 1`;
    const ids: Record<string, string> = {
      ":id": sandboxId,
      ":operation": String(operation?.["id"]),
      ":organization": String(database.organizationId),
    };
    const filled = (text: string) => text.replace(/:[a-z]+/g, (name) => ids[name] ?? name);
    const answer = await app.inject({
      method,
      url: filled(path),
      headers: { "x-api-key": KEY },
      ...(body === undefined ? {} : { payload: body }),
    });
    expect(answer.statusCode, answer.body).toBe(status);
    const asked = texts.filter((text) => WALLED.test(text));
    expect(asked.length).toBeGreaterThan(0);
    const mark = `/* organization ${database.organizationId} */ `;
    for (const text of asked) expect(text.startsWith(mark), text).toBe(true);
  },
);
