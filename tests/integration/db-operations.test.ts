/** The point of no return, deadlines, timeouts and lists, as the rows decide them. */
import type { HostId, OperationId, SandboxId } from "@torpor/contracts";
import {
  acceptWithin,
  applyPlans,
  commitOperations,
  findLivingSandbox,
  findOperation,
  findOperationEnd,
  findSandbox,
  findSandboxByEdgeAddress,
  findEdgeSandboxes,
  findSandboxRow,
  inTransaction,
  listExpiredOperations,
  listExpiredSandboxes,
  listSandboxes,
  moveOperation,
  type OperationRow,
  registerHost,
  type SandboxRow,
  setTimeoutSeconds,
} from "@torpor/db";
import { planMoves } from "@torpor/plans";
import {
  aHost,
  aRequester,
  makeSandbox,
  moveSandbox,
  type MoveResult,
  openTestDatabase,
  type Databases,
  sharedPostgres,
  type TestDatabase,
} from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

let server: Databases;
let database: TestDatabase;
beforeAll(async () => {
  server = sharedPostgres();
  database = await openTestDatabase(server);
  await registerHost(
    database.db,
    aHost("host-1", { capacity: { vcpu: 100, memoryMib: 10_000, diskMib: 10_000 } }),
    60_000,
  );
});
afterAll(async () => {
  await database[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
});

/** A pause that host-1 runs, for incarnation 3, as command 7. */
async function executingPause(): Promise<OperationRow> {
  const { id } = await makeSandbox(database, "running", {
    hostId: "host-1",
    patch: { epoch: 3, opSeq: 7 },
  });
  // As a drain requests a pause: the pause waits to be begun.
  const asked = await inTransaction(database.db, (tx) =>
    acceptWithin(tx, id, "pause", aRequester(database)),
  );
  if (asked.kind !== "accepted") throw new Error(asked.kind);
  const begun = await moveOperation(database.db, asked.operation.id, "begin", {
    hostId: "host-1" as HostId,
    epoch: 3,
    opSeq: 7,
    startedAt: new Date(),
  });
  if (begun === undefined) throw new Error("it did not begin");
  return begun;
}

type Commit = Partial<Parameters<typeof commitOperations>[1][number]>;
async function commit({ id, sandboxId }: OperationRow, given: Commit = {}): Promise<boolean> {
  const asked = { id, sandboxId, hostId: "host-1" as HostId, epoch: 3, opSeq: 7, ...given };
  return (await commitOperations(database.db, [asked]))[0] ?? false;
}
/** Requests that the operation backs out. Returns false when that is too late. */
async function askToBackOut({ id, sandboxId }: OperationRow): Promise<boolean> {
  const sandbox = await findSandboxRow(database.db, sandboxId);
  if (sandbox === undefined) throw new Error("it is gone");
  await applyPlans(database.db, [{ ...planMoves(sandbox, []), cancels: id }]);
  return (await findOperation(database.db, id))?.cancelRequestedAt !== null;
}
const expire = ({ id }: OperationRow) =>
  database.sql`UPDATE operations SET deadline_at = now() - interval '1 second' WHERE id = ${id}`;

describe("the point of no return", () => {
  test("is passed once, and the answer stays yes whatever the deadline", async () => {
    const operation = await executingPause();
    expect(await commit(operation)).toBe(true);
    const first = (await findOperation(database.db, operation.id))?.committedAt;
    await expire(operation);
    expect(await commit(operation)).toBe(true);
    expect((await findOperation(database.db, operation.id))?.committedAt).toEqual(first);
    expect(first).not.toBeNull();
  });

  test.each([
    ["another host", { hostId: "host-2" as HostId }],
    ["another sandbox", { sandboxId: "1763309903other001" as SandboxId }],
    ["a lower epoch", { epoch: 2 }],
    ["a higher epoch", { epoch: 4 }],
    ["another command", { opSeq: 6 }],
  ])("is refused to %s", async (_, given) => {
    const operation = await executingPause();
    expect(await commit(operation, given)).toBe(false);
    expect((await findOperation(database.db, operation.id))?.committedAt).toBeNull();
  });

  test("is granted by itself to each that asks at the same moment, whoever else asks for it", async () => {
    const { id, sandboxId } = await executingPause();
    const own = { id, sandboxId, hostId: "host-1" as HostId, epoch: 3, opSeq: 7 };
    const asked = [{ ...own, hostId: "host-2" as HostId }, own, { ...own, epoch: 2 }, own];
    expect(await commitOperations(database.db, asked)).toEqual([false, true, false, true]);
  });

  test("is refused past the deadline, and once the operation was asked to back out", async () => {
    const [expired, cancelled] = [await executingPause(), await executingPause()];
    await expire(expired);
    expect(await commit(expired)).toBe(false);
    expect(await askToBackOut(cancelled)).toBe(true);
    expect(await commit(cancelled)).toBe(false);
  });

  test.each(["succeed", "fail", "cancel", "supersede"] as const)(
    "is refused to an operation that has ended: %s",
    async (event) => {
      const operation = await executingPause();
      await moveOperation(database.db, operation.id, event);
      expect(await commit(operation)).toBe(false);
    },
  );

  test("once passed, nobody can ask the operation to back out any more", async () => {
    const operation = await executingPause();
    await commit(operation);
    expect(await askToBackOut(operation)).toBe(false);
    await expire(operation);
    expect((await listExpiredOperations(database.db, 100)).map(({ id }) => id)).not.toContain(
      operation.id,
    );
  });

  test("S25: when a commit races with the end of the deadline, exactly one of them happens", async () => {
    const operations: OperationRow[] = [];
    for (let left = 20; left > 0; left -= 1) operations.push(await executingPause());
    const outcomes = await Promise.all(
      operations.map(async (operation, at) => {
        const end = () =>
          moveOperation(database.db, operation.id, "fail", {}, { uncommittedOnly: true });
        const [first, second] =
          at % 2 === 0 ? [commit(operation), end()] : [end(), commit(operation)];
        return [await first, await second].map((won) => won !== false && won !== undefined);
      }),
    );
    expect(outcomes.map((won) => won.filter(Boolean).length)).toEqual(operations.map(() => 1));
    for (const { id } of operations) {
      const row = await findOperation(database.db, id);
      expect([row?.status, row?.committedAt === null], id).toEqual(
        row?.status === "failed" ? ["failed", true] : ["executing", false],
      );
    }
  });
});

test("who waits for operations reads each end, looking alone or with others", async () => {
  const make = async () => (await executingPause()).id;
  const [open, ended, failed] = [await make(), await make(), await make()];
  const error = { code: "X", message: "why" };
  await inTransaction(database.db, async (tx) => {
    await moveOperation(tx, ended, "succeed");
    await moveOperation(tx, failed, "fail", { error });
  });
  const seen = [
    undefined,
    { status: "succeeded", error: null, explain: null },
    { status: "failed", error, explain: null },
    undefined,
  ];
  const ids = [open, ended, failed, "op_unknown" as OperationId];
  expect(await Promise.all(ids.map((id) => findOperationEnd(database.db, id)))).toEqual(seen);
  for (const [at, id] of ids.entries())
    expect(await findOperationEnd(database.db, id)).toEqual(seen[at]);
});

describe("timeouts", () => {
  test("count from now while the sandbox runs", async () => {
    const { id } = await makeSandbox(database, "running");
    const set = await setTimeoutSeconds(database.db, id, database.organizationId, 600);
    expect(set?.sandbox).toMatchObject({ timeoutSeconds: 600, timeoutLeftMs: null });
    expect(set?.sandbox.expiresAt?.getTime()).toBeGreaterThan(Date.now() + 500_000);
  });

  test.each(["paused", "stopped"] as const)(
    "S55: stand still while the sandbox is %s: nothing expires, and all that was set is left",
    async (state) => {
      const { id } = await makeSandbox(database, state);
      const set = await setTimeoutSeconds(database.db, id, database.organizationId, 1);
      expect(set?.sandbox).toMatchObject({ expiresAt: null, timeoutLeftMs: 1000 });
      await database.sql`UPDATE sandboxes SET updated_at = now() - interval '1 hour'`;
      expect(await listExpiredSandboxes(database.db, 10)).toEqual([]);
    },
  );

  test("set while others move the sandbox, lose nothing", async () => {
    const { id } = await makeSandbox(database, "running");
    const touch = async () => {
      const sandbox = await findSandboxRow(database.db, id);
      if (sandbox === undefined) throw new Error("it is gone");
      await inTransaction<MoveResult, MoveResult>(database.db, (tx) =>
        moveSandbox(tx, { sandbox, to: "running", fact: "settings_changed" }),
      );
    };
    const set = Array.from({ length: 5 }, (_, at) =>
      setTimeoutSeconds(database.db, id, database.organizationId, 100 + at),
    );
    const results = await Promise.all([...set, touch(), touch()]);
    for (const result of results.slice(0, 5)) expect(result).not.toBeUndefined();
    const { timeoutSeconds } = (await findSandboxRow(database.db, id)) ?? {};
    expect(timeoutSeconds).toBeGreaterThanOrEqual(100);
  });

  test("of another organization's sandbox and of a deleted one cannot be set", async () => {
    const [living, dead] = [
      await makeSandbox(database, "running"),
      await makeSandbox(database, "deleted"),
    ];
    expect(
      await setTimeoutSeconds(database.db, living.id, database.organizationId + 1, 60),
    ).toBeUndefined();
    expect(
      await setTimeoutSeconds(database.db, dead.id, database.organizationId, 60),
    ).toBeUndefined();
  });
});

test("S26: pages of a list neither repeat nor skip a sandbox, though some of every page are deleted before the next is asked for", async () => {
  const [other] =
    await database.sql`INSERT INTO organizations (name) VALUES ('lister') RETURNING id`;
  const lister = { ...database, organizationId: Number(other?.["id"]) };
  const made: string[] = [];
  for (let left = 23; left > 0; left -= 1) made.push((await makeSandbox(lister, "running")).id);
  const expected = new Set(made);
  const seen: string[] = [];
  let afterId: SandboxId | undefined;
  for (let hasMore = true; hasMore;) {
    const page = await listSandboxes(database.db, {
      organizationId: lister.organizationId,
      limit: 5,
      afterId,
    });
    const ids = page.views.map(({ sandbox }) => sandbox.id);
    seen.push(...ids);
    hasMore = page.hasMore;
    afterId = ids.at(-1);
    // Between two pages one shown sandbox is deleted, every second time the very row that the
    // cursor names, and a new sandbox is created.
    const gone = seen.length % 2 === 0 ? ids[0] : afterId;
    await database.sql`UPDATE sandboxes SET state = 'deleted' WHERE id = ${gone ?? ""}`;
    await makeSandbox(lister, "running", {
      sandbox: { id: `9${String(seen.length).padStart(9, "0")}zzzzzzzz` as SandboxId },
    });
  }
  expect(seen).toEqual([...expected].toSorted().toReversed());
});

test("S11: a deleted sandbox is in no list and found by nobody, from the tombstone on", async () => {
  const [row] = await database.sql`INSERT INTO organizations (name) VALUES ('x') RETURNING id`;
  const owner = { ...database, organizationId: Number(row?.["id"]) };
  const shown = async ({ id, edgeAddress }: SandboxRow) => {
    const { organizationId } = owner;
    const page = await listSandboxes(database.db, { organizationId, limit: 5 });
    const served = await findEdgeSandboxes(database.db, [id]);
    const views = [
      await findSandbox(database.db, id, organizationId),
      await findLivingSandbox(database.db, id),
      await findSandboxByEdgeAddress(database.db, edgeAddress ?? ""),
    ];
    return {
      listed: page.views.some(({ sandbox }) => sandbox.id === id),
      served: served.some((sandbox) => sandbox.id === id),
      found: views.filter((view) => view?.sandbox.id === id).length,
    };
  };
  const visible = { listed: true, served: true, found: 3 };
  const kept = await makeSandbox(owner, "paused");
  for (const state of ["deleting", "deleted"]) {
    const gone = await makeSandbox(owner, "paused");
    expect(await shown(gone)).toEqual(visible);
    await database.sql`UPDATE sandboxes SET state = ${state} WHERE id = ${gone.id}`;
    expect(await shown(gone), state).toEqual({ listed: false, served: false, found: 0 });
  }
  expect(await shown(kept)).toEqual(visible);
});
