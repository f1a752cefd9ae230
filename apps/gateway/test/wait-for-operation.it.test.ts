/**
 * The reads of a waiting request, and their times. A real Postgres; events as the bus would deliver
 * them.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { newOperationId, type SandboxEventMessage } from "@torpor/contracts";
import { acceptCreate, type Database, moveOperation, type OperationRow } from "@torpor/db";
import {
  aRequester,
  aSandbox,
  openTestDatabase,
  type Databases,
  sharedPostgres,
  type TestDatabase,
} from "@torpor/testkit";
import { pino } from "pino";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { DEFAULT_LIMITS } from "../src/deps.ts";
import { createSandboxEvents, type SandboxEvents } from "../src/operations/sandbox-events.ts";
import { waitForOperation } from "../src/operations/wait-for-operation.ts";

/** Longer than any of these tests: no read is due to the interval. */
const NEVER_MS = 600_000;

const started = new AsyncDisposableStack();
let server: Databases;
let database: TestDatabase;
let events: SandboxEvents;
let reads: number;
let isConnected: boolean;
let operation: OperationRow;

beforeAll(async () => {
  server = started.use(sharedPostgres());
  database = started.use(await openTestDatabase(server));
});
afterAll(async () => {
  await started.disposeAsync();
});
beforeEach(async () => {
  events = createSandboxEvents();
  reads = 0;
  isConnected = true;
  const accepted = await acceptCreate(database.db, aSandbox(), aRequester(database));
  if (accepted.kind !== "accepted") throw new Error(accepted.kind);
  operation = accepted.operation;
});

/** Counts the reads. */
const counted = () =>
  ({
    select: (fields: Parameters<Database["select"]>[0]) => {
      reads += 1;
      return database.db.select(fields ?? {});
    },
  }) as unknown as Database;

function wait({ isNew = true, limits = {} } = {}) {
  const deps = {
    db: counted(),
    events,
    log: pino({ level: "silent" }),
    stopping: new AbortController().signal,
    limits: {
      ...DEFAULT_LIMITS,
      lookEveryMs: NEVER_MS,
      lookWithoutBusEveryMs: NEVER_MS,
      ...limits,
    },
    busConnected: () => isConnected,
  };
  return waitForOperation(deps, { operation, isNew }, new AbortController().signal);
}

const event = (given: Partial<SandboxEventMessage>): SandboxEventMessage => ({
  type: "sandbox_event",
  version: 1,
  sandboxId: operation.sandboxId,
  seq: 2,
  fact: "happened",
  from: "creating",
  to: "creating",
  generation: 2,
  epoch: 1,
  operationId: operation.id,
  operationStatus: "executing",
  occurredAt: new Date().toISOString(),
  ...given,
});

const end = (how: "succeed" | "supersede" = "succeed") =>
  moveOperation(database.db, operation.id, how);
const ended = (operationStatus = "succeeded") => event({ operationStatus });

describe("a new operation", () => {
  test("is looked at once: when the event tells of its end; what else happens to it costs no read", async () => {
    const waited = wait();
    events.emit(event({}));
    events.emit(event({ operationStatus: "outcome_unknown" }));
    events.emit(event({ operationId: newOperationId(), operationStatus: "succeeded" }));
    await sleep(50);
    expect(reads).toBe(0);
    await end();
    events.emit(ended());
    expect(await waited).toMatchObject({
      kind: "ended",
      operation: { id: operation.id, kind: "create", status: "succeeded" },
    });
    expect(reads).toBe(1);
  });

  test("whose end was heard before anybody waited for it is looked at at once", async () => {
    await end();
    events.emit(ended());
    expect(await wait()).toMatchObject({ kind: "ended" });
    expect(reads).toBe(1);
  });

  test.each([
    ["when the one in its place begins", {}],
    ["when the sandbox goes", { operationStatus: "succeeded", to: "deleting" as const }],
  ])("that was replaced, without an event of its own, is seen %s", async (_, heard) => {
    const waited = wait();
    await end("supersede");
    events.emit(event({ operationId: newOperationId(), ...heard }));
    expect(await waited).toMatchObject({ kind: "ended", operation: { status: "superseded" } });
  });

  test("is taken at its row's word, not at the event's", async () => {
    const waited = wait({ limits: { waitMs: 300 } });
    events.emit(ended());
    expect(await waited).toEqual({ kind: "still_open" });
  });
});

test("one that was there already is looked at at once", async () => {
  await end();
  expect(await wait({ isNew: false })).toMatchObject({ kind: "ended" });
});

test("W1: an event that never comes costs an interval", async () => {
  await end();
  expect(await wait({ limits: { lookEveryMs: 50 } })).toMatchObject({ kind: "ended" });
  expect(reads).toBe(1);
});

test("W4: while the bus is away it looks more often, and no longer when it is back", async () => {
  isConnected = false;
  const waited = wait({ limits: { lookWithoutBusEveryMs: 20 } });
  await expect.poll(() => reads).toBeGreaterThan(3);
  isConnected = true;
  await sleep(100);
  const before = reads;
  await sleep(200);
  expect(reads).toBe(before);
  await end();
  events.emit(ended());
  expect(await waited).toMatchObject({ kind: "ended" });
});

test("what 10,000 operations' ends leave behind is bounded, and the newest are remembered", () => {
  const ids = Array.from({ length: 10_000 }, () => newOperationId());
  for (const operationId of ids) events.emit(event({ operationId, operationStatus: "failed" }));
  const remembered = ids.filter((id) => events.hasEnded(id));
  expect(remembered).toEqual(ids.slice(-remembered.length));
  expect(remembered.length).toBeGreaterThan(1_000);
  expect(remembered.length).toBeLessThan(5_000);
});
