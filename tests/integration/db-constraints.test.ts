/**
 * What the database enforces by itself, whatever a program does: each statement here is one that no
 * query of ours makes, and is refused.
 */
import { constraintName, registerHost, sqlState } from "@torpor/db";
import {
  aHost,
  makeSandbox,
  openTestDatabase,
  type Databases,
  sharedPostgres,
  type TestDatabase,
} from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const CHECK_VIOLATION = "23514";
const UNIQUE_VIOLATION = "23505";
const FOREIGN_KEY_VIOLATION = "23503";

let server: Databases;
let database: TestDatabase;
beforeAll(async () => {
  server = sharedPostgres();
  database = await openTestDatabase(server);
  await registerHost(database.db, aHost("host-1"), 60_000);
});
afterAll(async () => {
  await database[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
});

/**
 * Runs the statements in a transaction that is always rolled back. Returns why they were refused.
 */
async function refusal(
  statements: string[],
): Promise<{ state: string | undefined; constraint: string | undefined } | "accepted"> {
  try {
    await database.sql.begin(async (tx) => {
      for (const statement of statements) await tx.unsafe(statement);
      throw new Error("accepted");
    });
    return "accepted";
  } catch (error) {
    return error instanceof Error && error.message === "accepted"
      ? "accepted"
      : { state: sqlState(error), constraint: constraintName(error) };
  }
}

const operation = (id: string, sandboxId: string, status: string, key = "NULL") =>
  `INSERT INTO operations (id, sandbox_id, organization_id, kind, status, idempotency_key, requested_by, deadline_at)
   VALUES ('${id}', '${sandboxId}', 1, 'pause', '${status}', ${key}, 'test', now())`;

describe("a value that cannot be is refused", () => {
  test.each([
    ["more vCPUs than there are", "hosts_vcpu", "UPDATE hosts SET vcpu_used = vcpu_capacity + 1"],
    [
      "more memory than there is",
      "hosts_memory",
      "UPDATE hosts SET memory_mib_used = memory_mib_capacity + 1",
    ],
    [
      "more disk than there is",
      "hosts_disk",
      "UPDATE hosts SET disk_mib_used = disk_mib_capacity + 1",
    ],
    ["fewer than no vCPUs", "hosts_vcpu", "UPDATE hosts SET vcpu_used = -1"],
    [
      "a capacity below what is used",
      "hosts_memory",
      "UPDATE hosts SET memory_mib_used = 512, memory_mib_capacity = 511",
    ],
    ["a state of a host that there is not", "hosts_state", "UPDATE hosts SET state = 'gone'"],
    [
      "a state of a sandbox that there is not",
      "sandboxes_state",
      "UPDATE sandboxes SET state = 'hibernating'",
    ],
    [
      "a transitional state as the settled one",
      "sandboxes_settled_state",
      "UPDATE sandboxes SET settled_state = 'pausing'",
    ],
    [
      "memory held on no host",
      "sandboxes_holds_memory",
      "UPDATE sandboxes SET host_id = NULL, holds_memory = true",
    ],
    [
      "a kind of operation that there is not",
      "operations_kind",
      "UPDATE operations SET kind = 'reboot'",
    ],
    [
      "a status of an operation that there is not",
      "operations_status",
      "UPDATE operations SET status = 'done'",
    ],
  ])("%s", async (_, constraint, statement) => {
    await makeSandbox(database, "paused");
    expect(await refusal([statement])).toEqual({ state: CHECK_VIOLATION, constraint });
  });
});

describe("a second one is refused", () => {
  test.each([
    ["executing", "executing", "operations_one_executing"],
    ["executing", "outcome_unknown", "operations_one_executing"],
    ["outcome_unknown", "outcome_unknown", "operations_one_executing"],
    ["waiting", "waiting", "operations_one_waiting"],
  ])("operation of one sandbox: %s beside %s", async (first, second, constraint) => {
    const { id } = await makeSandbox(database, "running");
    expect(await refusal([operation("a", id, first), operation("b", id, second)])).toEqual({
      state: UNIQUE_VIOLATION,
      constraint,
    });
  });

  test("but one may wait behind one that executes, and any number have ended", async () => {
    const { id } = await makeSandbox(database, "running");
    const statuses = [
      "executing",
      "waiting",
      "succeeded",
      "succeeded",
      "failed",
      "failed",
      "cancelled",
      "superseded",
    ];
    expect(await refusal(statuses.map((status, at) => operation(`op-${at}`, id, status)))).toBe(
      "accepted",
    );
  });

  test("operation with the same idempotency key in one organization", async () => {
    const [one, two] = [
      await makeSandbox(database, "running"),
      await makeSandbox(database, "running"),
    ];
    const statements = [
      operation("a", one.id, "succeeded", "'k'"),
      operation("b", two.id, "waiting", "'k'"),
    ];
    expect(await refusal(statements)).toEqual({
      state: UNIQUE_VIOLATION,
      constraint: "operations_idempotency",
    });
  });

  test("incarnation of the same epoch, event of the same number, snapshot of the same generation", async () => {
    const { id } = await makeSandbox(database, "running");
    const incarnation = `INSERT INTO incarnations (sandbox_id, epoch, host_id) VALUES ('${id}', 1, 'host-1')`;
    expect(await refusal([incarnation, incarnation])).toMatchObject({
      constraint: "incarnations_sandbox_id_epoch_pk",
    });
    const event = `INSERT INTO sandbox_events (sandbox_id, seq, fact, to_state, generation, epoch) VALUES ('${id}', 9, 'x', 'running', 9, 1)`;
    expect(await refusal([event, event])).toMatchObject({
      constraint: "sandbox_events_sandbox_id_seq_pk",
    });
    const snapshot = `INSERT INTO snapshots (sandbox_id, generation, epoch, host_id, size_bytes, manifest_sha256, guest_synced, driver_fingerprint)
      VALUES ('${id}', 1, 1, 'host-1', 1, 'x', true, 'x')`;
    expect(await refusal([snapshot, snapshot])).toMatchObject({
      constraint: "snapshots_sandbox_id_generation_pk",
    });
  });

  test("living sandbox on one edge address; a deleted one leaves it to others", async () => {
    const first = await makeSandbox(database, "running");
    const second = await makeSandbox(database, "running");
    const take = `UPDATE sandboxes SET edge_address = '${first.edgeAddress}' WHERE id = '${second.id}'`;
    expect(await refusal([take])).toEqual({
      state: UNIQUE_VIOLATION,
      constraint: "sandboxes_edge_address",
    });
    expect(
      await refusal([`UPDATE sandboxes SET state = 'deleting' WHERE id = '${first.id}'`, take]),
    ).not.toBe("accepted");
    expect(
      await refusal([`UPDATE sandboxes SET state = 'deleted' WHERE id = '${first.id}'`, take]),
    ).toBe("accepted");
  });
});

test("an operation, an event or a snapshot of no sandbox is refused, and so is a sandbox on a host that nobody knows", async () => {
  expect(await refusal([operation("a", "nobody", "waiting")])).toMatchObject({
    state: FOREIGN_KEY_VIOLATION,
  });
  const { id } = await makeSandbox(database, "running");
  expect(
    await refusal([`UPDATE sandboxes SET host_id = 'host-9' WHERE id = '${id}'`]),
  ).toMatchObject({ state: FOREIGN_KEY_VIOLATION });
});
