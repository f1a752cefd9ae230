/** Requests that are audited, and how entries get into the database, which is scripted. */
import type { Database, NewAuditEntry } from "@torpor/db";
import { pino } from "pino";
import { beforeEach, describe, expect, test, vi } from "vitest";
import {
  auditEntry,
  type AuditWriter,
  createAuditLog,
  isAudited,
  outcomeOf,
} from "../src/audit.ts";
import { appWith } from "./support/app.ts";

describe("what is audited", () => {
  test.each<[string, number, string | null, boolean]>([
    ["POST", 201, null, true],
    ["PATCH", 200, null, true],
    ["PUT", 400, "INVALID_REQUEST", true],
    ["DELETE", 409, "CONFLICT", true],
    ["POST", 503, "OPERATION_IN_PROGRESS", true],
    ["POST", 429, "RESOURCE_LIMIT_ERROR", true],
    ["POST", 429, "RATE_LIMIT_EXCEEDED", false],
    ["GET", 429, "RATE_LIMIT_EXCEEDED", false],
    ["GET", 200, null, false],
    ["HEAD", 200, null, false],
    ["GET", 404, "SANDBOX_NOT_FOUND", false],
    ["GET", 401, "INVALID_TOKEN", true],
    ["GET", 403, "SCOPE_MISSING", true],
  ])("%s that ends with %d %s: %s", (method, status, code, expected) => {
    expect(isAudited(method, status, code)).toBe(expected);
  });

  test("AU2: of an answer its code and what it is about, and nothing else", () => {
    const secret = { auth_token: "secret", secret: "secret" };
    expect(outcomeOf(JSON.stringify({ id: "1763309903rt5vs4lm", ...secret }))).toEqual({
      code: null,
      resource: "1763309903rt5vs4lm",
    });
    expect(outcomeOf(JSON.stringify({ id: 7, ...secret }))).toEqual({ code: null, resource: "7" });
    const accepted = { id: "op_1", sandbox_id: "1763309903rt5vs4lm" };
    expect(outcomeOf(JSON.stringify(accepted)).resource).toBe("1763309903rt5vs4lm");
    expect(outcomeOf(JSON.stringify({ code: "CONFLICT", id: { of: "another kind" } }))).toEqual({
      code: "CONFLICT",
      resource: null,
    });
    for (const other of ["", undefined, null, Buffer.from("{}"), "[]"])
      expect(outcomeOf(other)).toEqual({ code: null, resource: null });
  });

  test("texts of the client are kept, but not at any length", () => {
    const headers = { "x-forwarded-for": "1".repeat(2_000) };
    const entry = auditEntry(undefined, headers, { ...NOTED, path: `/${"x".repeat(2_000)}` });
    expect([entry.path.length, entry.forwardedFor?.length]).toEqual([512, 512]);
    expect(entry).toMatchObject({ requestedBy: null, organizationId: null });
  });
});

const until = async (seen: () => boolean) =>
  await vi.waitUntil(seen, { timeout: 30_000, interval: 2 });

const NOTED = {
  address: "10.0.0.1",
  method: "POST",
  path: "/v1/sandboxes",
  resource: null,
  status: 201,
  code: null,
  requestId: "req_1",
};
const OWNER = { apiKeyId: 7, organizationId: 1, scopes: [], expiresAt: null };
const entry = (given: Partial<typeof NOTED> = {}) => auditEntry(OWNER, {}, { ...NOTED, ...given });

const log = pino({ level: "silent" });

describe("the log", () => {
  let written: NewAuditEntry[];
  let isAway: boolean;
  let attempts: number;
  let audit: AuditWriter;
  beforeEach(() => {
    written = [];
    isAway = false;
    attempts = 0;
    const db = {
      insert: () => ({
        values: async (entries: NewAuditEntry[]) => {
          attempts += 1;
          if (isAway) throw new Error("no database");
          written.push(...entries);
        },
      }),
    } as unknown as Database;
    // A wait that is longer than the test: only the entry itself ends it.
    audit = createAuditLog({ db, log, retryMs: 5, waitMs: 600_000 });
  });
  const ids = () => written.map(({ requestId }) => requestId);

  test("has an entry once it says so, in the order in which they came", async () => {
    await audit.note(entry({ requestId: "first" }));
    expect(ids()).toEqual(["first"]);
    const many = Array.from({ length: 1_000 }, (_, at) => `many-${at}`);
    await Promise.all(many.map((requestId) => audit.note(entry({ requestId }))));
    expect(ids()).toEqual(["first", ...many]);
    expect(written[0]).toMatchObject({ requestedBy: "api-key:7", organizationId: 1 });
  });

  test("that is behind holds nobody up, and is written when it can be", async () => {
    isAway = true;
    const first = audit.note(entry({ requestId: "first" }));
    await until(() => attempts > 0);
    await Promise.all([1, 2, 3].map((at) => audit.note(entry({ requestId: `later-${at}` }))));
    expect(written).toEqual([]);
    isAway = false;
    await first;
    await until(() => written.length === 4);
    expect(ids()).toEqual(["first", "later-1", "later-2", "later-3"]);
    await audit.note(entry({ requestId: "after" }));
    expect(ids().at(-1)).toBe("after");
  });

  test("that hangs holds nobody up for long", async () => {
    const values = () => new Promise<never>(() => {});
    const db = { insert: () => ({ values }) } as unknown as Database;
    await createAuditLog({ db, log, waitMs: 1 }).note(entry());
  });

  test("writes what waits when it is closed", async () => {
    isAway = true;
    const first = audit.note(entry({ requestId: "first" }));
    await until(() => attempts > 0);
    isAway = false;
    await audit.close();
    await first;
    expect(ids()).toEqual(["first"]);
  });

  test("AU3: takes 60 refusals a minute of one who is refused, and those of others all the same", async () => {
    const refused = { status: 401, code: "INVALID_TOKEN" as never };
    const anonymous = (address: string) =>
      auditEntry(undefined, {}, { ...NOTED, ...refused, address });
    for (let at = 0; at < 100; at += 1) await audit.note(anonymous("10.0.0.1"));
    expect(written).toHaveLength(60);
    await audit.note(anonymous("10.0.0.2"));
    await audit.note(entry({ status: 403 }));
    await audit.note(entry());
    expect(written).toHaveLength(63);
  });
});

test("AU1: an answer is sent when its entry is written", async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const noted: NewAuditEntry[] = [];
  const audit = {
    note: async (one: NewAuditEntry) => {
      noted.push(one);
      await promise;
    },
  };
  await using app = appWith({ db: {} as Database, audit });
  let isAnswered = false;
  const url = "/v1/sandboxes?secret=1";
  const answer = app.inject({ method: "POST", url }).then((reply) => {
    isAnswered = true;
    return reply;
  });
  await until(() => noted.length > 0);
  expect(isAnswered).toBe(false);
  resolve();
  expect((await answer).statusCode).toBe(401);
  expect(noted).toMatchObject([
    {
      requestedBy: null,
      address: "127.0.0.1",
      method: "POST",
      path: "/v1/sandboxes",
      status: 401,
      code: "AUTHENTICATION_REQUIRED",
    },
  ]);
});
