import {
  type HostId,
  isSandboxId,
  newSandboxId,
  type OperationId,
  type SandboxId,
} from "@torpor/contracts";
import type { OperationRow } from "@torpor/db";
import { describe, expect, test } from "vitest";
import { decodeCursor, encodeCursor } from "../src/http/cursor.ts";
import { downstreamHeaders, upstreamHeaders } from "../src/edge/headers.ts";
import { ApiError } from "../src/http/errors.ts";
import type { Dependencies } from "../src/deps.ts";
import { assertReached } from "../src/operations/outcome.ts";
import { operationView } from "../src/views/sandbox.ts";

describe("cursors", () => {
  test("give back the key that they were made from, and survive a URL", () => {
    const id = newSandboxId();
    const cursor = encodeCursor(id);
    expect(encodeURIComponent(cursor)).toBe(cursor);
    expect(decodeCursor(cursor, isSandboxId)).toBe(id);
  });

  test.each(["", "nonsense", "%%%", encodeCursor("1763309903rt5vs4lm' OR 1=1"), encodeCursor("7")])(
    "that were not given out are a 400: %j",
    (cursor) => {
      expect(() => decodeCursor(cursor, isSandboxId)).toThrow(ApiError);
      expect(() => decodeCursor(cursor, isSandboxId)).toThrow(/^cursor /);
    },
  );
});

describe("an operation that failed", () => {
  const ended = (error: OperationRow["error"]) =>
    ({ id: "op_1", kind: "create", status: "cancelled", error, explain: null }) as OperationRow;
  const answer = async (error: OperationRow["error"]) => {
    // A database without the sandbox.
    const db = {
      select: () => ({ from: () => ({ where: () => Promise.resolve([]) }) }),
    } as unknown as Dependencies["db"];
    return await assertReached({ db }, ended(error)).catch((thrown: unknown) => thrown);
  };

  test("is a 409 with its reason", async () => {
    expect(await answer({ code: "CREATE_FAILED", message: "no" })).toMatchObject({
      status: 409,
      code: "CREATE_FAILED",
      headers: {},
    });
  });

  test("because it did not begin in time: a 409 that says when to try again", async () => {
    const error = { code: "OPERATION_TIMEOUT", message: "late", retryAfterSeconds: 5 };
    expect(await answer(error)).toMatchObject({
      status: 409,
      code: "OPERATION_TIMEOUT",
      headers: { "retry-after": "5" },
    });
  });

  test("because too many were before it: a 429 that says when to try again", async () => {
    expect(
      await answer({ code: "RATE_LIMIT_EXCEEDED", message: "too many", retryAfterSeconds: 7 }),
    ).toMatchObject({
      status: 429,
      code: "RATE_LIMIT_EXCEEDED",
      headers: { "retry-after": "7" },
      details: { retry_after_seconds: 7, operation_id: "op_1" },
    });
  });
});

test("an operation says how much it has brought to its host only while it lasts", () => {
  const at = new Date(0);
  const row: OperationRow = {
    id: "op_1" as OperationId,
    sandboxId: "1763309903rt5vs4lm" as SandboxId,
    organizationId: 1,
    kind: "resume",
    status: "executing",
    idempotencyKey: null,
    requestSha256: null,
    requestedBy: "api-key:1",
    deadlineAt: at,
    committedAt: null,
    cancelRequestedAt: null,
    onlyIfIdleForMs: null,
    maxBytesPerSecond: null,
    hostId: "host-2" as HostId,
    pinnedHostId: null,
    originHostId: "host-1" as HostId,
    epoch: 2,
    opSeq: 3,
    error: null,
    explain: null,
    timingsMs: null,
    fetchedBytes: { done: 5, total: 9 },
    traceId: null,
    createdAt: at,
    startedAt: at,
    endedAt: null,
  };
  expect(operationView(row)).toMatchObject({
    status: "executing",
    fetched_bytes: { done: 5, total: 9 },
  });
  expect(operationView({ ...row, endedAt: at })).not.toHaveProperty("fetched_bytes");
  expect(operationView({ ...row, fetchedBytes: null })).not.toHaveProperty("fetched_bytes");
});

describe("headers at the edge", () => {
  const raw = (headers: Record<string, string>) => Object.entries(headers).flat();

  test("credentials and what speaks of one connection end here, whatever their case; the rest passes in order, repeats included", () => {
    const sent = [
      ...raw({
        Host: "127.0.0.1",
        AUTHORIZATION: "Bearer t",
        "X-API-Key": "k",
        Connection: "keep-alive",
        "Transfer-Encoding": "chunked",
      }),
      ...raw({
        "X-Torpor-Host-Key": "forged",
        "x-torpor-sandbox": "other",
        "X-Torpor-Epoch": "9",
        "X-Torpor-Port": "22",
        Upgrade: "h2c",
      }),
      "Cookie",
      "a=1",
      "Cookie",
      "b=2",
      "X-Custom",
      "kept",
    ];
    expect(upstreamHeaders(sent, { "x-torpor-host-key": "real" }, false)).toEqual([
      ...raw({ Host: "127.0.0.1" }),
      "Cookie",
      "a=1",
      "Cookie",
      "b=2",
      "X-Custom",
      "kept",
      ...raw({ "x-torpor-host-key": "real" }),
    ]);
  });

  test("an application that may know its client gets the client's own credentials", () => {
    const sent = raw({ Host: "127.0.0.1", Authorization: "Bearer theirs", "X-API-Key": "theirs" });
    expect(upstreamHeaders(sent, {}, true)).toEqual(sent);
  });

  test("an answer carries the request id of the edge, and one alone", () => {
    expect(
      downstreamHeaders(
        raw({ "X-Request-Id": "guest's", Connection: "close", "Content-Type": "text/plain" }),
        { "x-request-id": "req_1" },
      ),
    ).toEqual(raw({ "Content-Type": "text/plain", "x-request-id": "req_1" }));
  });
});
