/**
 * No statement that is repeated, no list, and nothing that a gateway asks for one sandbox reads a
 * large table from one end to the other: with 200,000 sandboxes.
 */
import { type HostId, type OperationId, unverifiedHostId } from "@torpor/contracts";
import {
  countSandboxes,
  findNews,
  listAuditEntries,
  listEvents,
  listFindings,
  listHostEvents,
  listHosts,
  listHostOverviews,
  listPlacementHosts,
  listSandboxes,
  type ListFilter,
  listAbsentSandboxes,
  findAbsentSandboxes,
  findOperationEnds,
  listWaitingKinds,
  measureOutbox,
  noteAnswering,
  readQuotas,
  readDueWork,
  recordHeartbeats,
  recordComparisons,
  relayOutbox,
  renewFreeLeases,
  type Database,
  forEveryOrganization,
  forOrganization,
  openDatabase,
  setUpDatabaseUsers,
} from "@torpor/db";
import { aHeartbeat, type PostgresServer, startPostgres, type TestDatabase } from "@torpor/testkit";
import { sql } from "drizzle-orm";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { RECONCILERS } from "../../apps/scheduler/src/reconcilers.ts";
import { Decisions } from "../../apps/scheduler/test/support/decisions.ts";
import { fillDatabase, HOSTS, idOf, SANDBOXES } from "./support/large-database.ts";
import { type Calls, gatewayCalls } from "./support/gateway-calls.ts";
import { scannedTables, Statements } from "./support/statements.ts";

const HOST_1 = "host-1" as HostId;

const FILL_LIMIT_MS = 300_000;
const LEASE_MS = 9_000;
/** Tables with few rows, whatever the size of the fleet. */
const SMALL = new Set([
  "hosts",
  "drains",
  "drain_sandboxes",
  "organizations",
  "organization_quotas",
  "lease_service",
  "host_checks",
  "host_findings",
  "templates",
  "template_images",
]);

let server: PostgresServer;
let database: TestDatabase;
let scheduler: Decisions;
let statements: Statements;
beforeAll(async () => {
  // A server of its own: the users that a fleet has are those of all databases.
  server = await startPostgres();
  scheduler = await Decisions.over(server);
  ({ database } = scheduler);
  await fillDatabase(database.sql, database.organizationId);
  statements = new Statements(database.db);
}, FILL_LIMIT_MS);
afterAll(async () => {
  await scheduler[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
});

/** Queries besides those of the reconcilers' rounds, by name. */
const QUERIES: Record<string, () => Promise<unknown>> = {
  "relay-outbox": async () => {
    await listWaitingKinds(database.db, 0);
    const which = { kind: "sandbox", limit: 200, olderThanMs: 0 };
    await relayOutbox(database.db, which, async () => ({ published: [], refused: [] }));
  },
  "operation-ends": () =>
    findOperationEnds(database.db, ["op_1" as OperationId, "op_2" as OperationId]),
  "due-work": () => readDueWork(database.db),
  "measure-outbox": () => measureOutbox(database.db),
  "note-answering": () => noteAnswering(database.db, LEASE_MS),
  "restore-bus": () => listHosts(database.db),
  placement: () => listPlacementHosts(database.db),
  leases: () =>
    renewFreeLeases(
      database.db,
      everyHost.map((hostId) => ({ hostId, hasFence: true })),
      LEASE_MS,
    ),
  heartbeats: () => recordHeartbeats(database.db, everyHost.map(heartbeatOf)),
  inventories: () => findNews(database.db, everyHost.flatMap(entriesOf)),
  comparisons: () => recordComparisons(database.db, everyHost.map(comparisonOf)),
  "a whole inventory": () => listAbsentSandboxes(database.db, HOST_1, entriesOf(HOST_1)),
  "what has gone": () => findAbsentSandboxes(database.db, HOST_1, [idOf(1), idOf(21)]),
  sandboxes: () => list({}),
  "the next page": () => list({ afterId: idOf(SANDBOXES / 2) }),
  "sandboxes of a state": () => list({ states: ["running"] }),
  "sandboxes of two states": () => list({ states: ["running", "stopped"] }),
  "sandboxes of a region": () => list({ region: "far" }),
  "sandboxes with metadata": () => list({ metadata: { app: "a500" } }),
  "all of that": () => list({ states: ["paused"], region: "far", metadata: { app: "a0" } }),
  events: () => listEvents(database.db, idOf(1), 100),
  hosts: () => listHostOverviews(database.db, HOSTS),
  "a host's sandboxes": () => countSandboxes(database.db, [HOST_1]),
  "a host's history": () => listHostEvents(database.db, HOST_1, 100),
  "a host's findings": () => listFindings(database.db, HOST_1, 100),
  quotas: () => readQuotas(database.db, database.organizationId + 5),
  "the audit log": () =>
    listAuditEntries(database.db, {
      requestedBy: "api-key:1",
      organizationId: undefined,
      limit: 100,
      beforeId: undefined,
    }),
};

const everyHost = Array.from({ length: HOSTS }, (_, at) => unverifiedHostId(`host-${at}`));
const list = async (filter: Partial<ListFilter>) =>
  await listSandboxes(database.db, {
    organizationId: database.organizationId,
    limit: 100,
    ...filter,
  });
const sandboxesOf = (hostId: HostId) =>
  Array.from({ length: 200 }, (_, at) => idOf(at * HOSTS + Number(hostId.slice("host-".length))));
const heartbeatOf = (hostId: HostId) => {
  const [sandboxId = idOf(0)] = sandboxesOf(hostId);
  return aHeartbeat(hostId, {
    activity: [{ sandboxId, epoch: 1, lastActiveMsAgo: 0 }],
    replication: [{ sandboxId, bytesDone: 1, bytesTotal: 2 }],
    fetches: [{ operationId: `op_${"0".repeat(32)}` as OperationId, bytesDone: 1, bytesTotal: 2 }],
  });
};
const entriesOf = (hostId: HostId) =>
  sandboxesOf(hostId).map((sandboxId) => ({
    hostId,
    sandboxId,
    epoch: 1,
    opSeq: 2,
    revision: 2,
    isQuarantined: false,
    hasSnapshot: true,
  }));
const comparisonOf = (hostId: HostId) => ({
  hostId,
  digest: "d",
  since: undefined,
  ended: [{ sandboxId: idOf(1), version: 1 }],
  open: [idOf(2)],
});

async function scans(): Promise<string[]> {
  const found = new Set<string>();
  for (const statement of statements.seen) {
    for (const generic of [false, true]) {
      const tables = (await scannedTables(database.sql, statement, generic)).filter(
        (table) => !SMALL.has(table),
      );
      if (tables.length > 0)
        found.add(
          `${statement.of} reads all of ${tables.join(", ")}${generic ? " by its plan for any values" : ""}: ${statement.text}`,
        );
    }
  }
  return [...found];
}

test("of every kind of work that the rounds go by there is some to be seen", async () => {
  const found = await readDueWork(database.db);
  const wanted = RECONCILERS.flatMap(({ work }) => work ?? []);
  expect(wanted.filter((work) => !found.has(work))).toEqual([]);
});

test("no statement of a reconciler's round, of a heartbeat or of a list scans a large table", async () => {
  const before = statements.seen.length;
  for (const reconciler of RECONCILERS) {
    const { name } = reconciler;
    expect(
      await statements.during(name, () => reconciler.run(scheduler.deps)),
      `${name} asks the database`,
    ).toBeGreaterThan(0);
  }
  for (const [name, query] of Object.entries(QUERIES))
    expect(await statements.during(name, query), `${name} asks the database`).toBeGreaterThan(0);
  expect(statements.seen.length).toBeGreaterThan(before);
  expect(await scans()).toEqual([]);
});

test("a scan is seen", async () => {
  const seen = {
    of: "",
    text: "SELECT count(*) FROM sandboxes WHERE template_name = $1",
    parameters: ["t"] as never[],
  };
  for (const generic of [false, true])
    expect(await scannedTables(database.sql, seen, generic)).toEqual(["sandboxes"]);
});

/**
 * Behind the policies for rows a condition may keep an index from being used that serves the owner
 * of the tables. The server counts its scans, so what functions in the database execute counts too.
 */
describe("a gateway, as its own user", () => {
  const LARGE = ["sandboxes", "operations", "incarnations", "snapshots", "sandbox_events"];
  /** After five executions a prepared statement may get a plan for all values. */
  const TIMES = 8;
  const PASSWORDS = { gateway: "g", scheduler: "s" };
  const NAMES = Object.keys(gatewayCalls({} as Database, {} as Database, { organizationId: 0 }));
  let own: Database;
  let calls: Calls;
  let close: () => Promise<void>;

  beforeAll(async () => {
    await setUpDatabaseUsers(database.url, PASSWORDS);
    const url = database.url.replace(/\/\/[^@]+@/, `//torpor_gateway:${PASSWORDS.gateway}@`);
    // One connection, so that it can be made to report what it has scanned.
    const handle = openDatabase(url, { maxConnections: 1 });
    close = () => handle.close();
    own = forOrganization(handle.db, database.organizationId);
    calls = gatewayCalls(own, forEveryOrganization(handle.db), database);
  });
  afterAll(async () => {
    await close();
  });

  async function scansSoFar(): Promise<Record<string, number>> {
    await own.execute(sql`SELECT pg_stat_force_next_flush()`);
    const rows = await database.sql`
      SELECT relname AS name, seq_scan::int AS scans FROM pg_stat_user_tables
      WHERE relname IN ${database.sql(LARGE)}`;
    return Object.fromEntries(rows.map(({ name, scans }) => [name as string, scans as number]));
  }

  test.each(NAMES)("%s scans no large table", async (name) => {
    const before = await scansSoFar();
    for (let time = 0; time < TIMES; time += 1) await calls[name]?.(time);
    expect(await scansSoFar()).toEqual(before);
  });

  test("a scan is counted", async () => {
    const before = await scansSoFar();
    await own.execute(sql`SELECT count(*) FROM sandboxes WHERE template_name = 'none'`);
    const { sandboxes } = await scansSoFar();
    expect(sandboxes).toBeGreaterThan(before["sandboxes"] ?? Infinity);
  });
});
