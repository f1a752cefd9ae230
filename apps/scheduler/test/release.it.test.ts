/**
 * Sandboxes at rest that leave their host: copied to the store, released, fetched elsewhere; and
 * garbage in the store.
 */
import type { HostId, Observation, SandboxId } from "@torpor/contracts";
import { changeHost, findSnapshot, listEvents, type SandboxRow } from "@torpor/db";
import { anObservation, type Databases, sharedPostgres } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { handleGarbage } from "../src/hosts/handle-host-requests.ts";
import { expireOperation } from "../src/operations/expire-operation.ts";
import { releaseFromHost, requestReplication } from "../src/hosts/release.ts";
import { Decisions, SNAPSHOT } from "./support/decisions.ts";

const HOME = "home" as HostId;

let server: Databases;
let scheduler: Decisions;
beforeAll(() => {
  server = sharedPostgres();
});
afterAll(async () => {
  await scheduler[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
});

const BIG = { capacity: { vcpu: 100, memoryMib: 6400, diskMib: 6400 } };
/** Every test has its own hosts: `home`, which is the only one until a test joins `away`. */
const world = async () => {
  await (scheduler as Decisions | undefined)?.[Symbol.asyncDispose]();
  scheduler = await Decisions.over(server);
  await scheduler.join("home", { ...BIG, dataPlaneUrl: "http://home:9401" });
};
const stopped = async (): Promise<SandboxRow> => {
  const { id } = await scheduler.running();
  await scheduler.complete((await scheduler.begin(id, "stop")).id, { state: "stopped" });
  return await scheduler.sandbox(id);
};
let revision = 1_000;
/** A report that the host of the sandbox makes by itself. */
const report = async (
  sandbox: SandboxRow,
  given: Pick<Observation, "state"> & Partial<Observation>,
) => {
  revision += 1;
  const { id: sandboxId, epoch, opSeq } = await scheduler.sandbox(sandbox.id);
  return await scheduler.apply(
    anObservation({ hostId: HOME, sandboxId, epoch, opSeq, revision, ...given }),
  );
};
const storedAs = (storeKey: string) => ({ ...SNAPSHOT, storeKey });
const replicated = async (state: "paused" | "stopped"): Promise<SandboxRow> => {
  if (state === "paused") return await scheduler.paused(`key/1-b`);
  const sandbox = await stopped();
  expect(await report(sandbox, { state: "stopped", snapshot: storedAs("key/1-b") })).toBe(
    "applied",
  );
  return await scheduler.sandbox(sandbox.id);
};
const released = async (state: "paused" | "stopped"): Promise<SandboxRow> => {
  const sandbox = await replicated(state);
  expect(await releaseFromHost(scheduler.deps, sandbox)).toBe("released");
  return await scheduler.sandbox(sandbox.id);
};
const facts = async (id: SandboxId) =>
  (await listEvents(scheduler.database.db, id, 100)).map(({ fact }) => fact);
const sumsAreRight = async () => {
  for (const { id, used, sum } of await scheduler.used()) expect(used, id).toEqual(sum);
};

describe("a copy in the store", () => {
  test("is asked for of the host that has the sandbox, as it is now, and only while it stands still", async () => {
    await world();
    const running = await scheduler.running();
    expect(await requestReplication(scheduler.deps, running)).toBe("not_possible");
    const paused = await scheduler.paused();
    expect(await requestReplication(scheduler.deps, paused, { maxBytesPerSecond: 1_000 })).toBe(
      "requested",
    );
    const { epoch, opSeq } = paused;
    expect(await scheduler.commands({ sandboxId: paused.id, kind: "replicate" })).toMatchObject([
      { hostId: "home", epoch, opSeq, maxBytesPerSecond: 1_000 },
    ]);
    await report(paused, { state: "paused", snapshot: storedAs("key/1-b") });
    expect(await requestReplication(scheduler.deps, await scheduler.sandbox(paused.id))).toBe(
      "replicated",
    );
    expect(await scheduler.commands({ sandboxId: paused.id, kind: "replicate" })).toHaveLength(1);
  });

  test("of a stopped sandbox is its disk: recorded once, dropped by the next run", async () => {
    await world();
    const { id } = await replicated("stopped");
    expect(await findSnapshot(scheduler.database.db, id)).toMatchObject({
      hasMemory: false,
      storeKey: "key/1-b",
    });
    expect((await facts(id)).filter((fact) => fact === "snapshot_stored")).toHaveLength(1);
    const sandbox = await scheduler.sandbox(id);
    expect(await report(sandbox, { state: "stopped", snapshot: storedAs("key/1-b") })).toBe(
      "nothing_new",
    );
    const start = await scheduler.begin(id, "start");
    expect(start).toMatchObject({ hostId: "home" });
    await scheduler.complete(start.id, { state: "running" });
    expect(await findSnapshot(scheduler.database.db, id)).toBeUndefined();
  });

  test("that the host gave up is said, with its reason, until there is one after all", async () => {
    await world();
    const sandbox = await scheduler.paused();
    const cause = { code: "REPLICATION_FAILED", message: "The store is full." };
    expect(
      await report(sandbox, { state: "paused", snapshot: SNAPSHOT, replicationFailed: cause }),
    ).toBe("applied");
    expect(await findSnapshot(scheduler.database.db, sandbox.id)).toMatchObject({
      storeKey: null,
      storeError: cause,
    });
    expect((await listEvents(scheduler.database.db, sandbox.id, 100)).at(-1)).toMatchObject({
      fact: "snapshot_not_stored",
      cause,
    });
    expect(await report(sandbox, { state: "paused", snapshot: storedAs("key/1-b") })).toBe(
      "applied",
    );
    expect(await findSnapshot(scheduler.database.db, sandbox.id)).toMatchObject({
      storeKey: "key/1-b",
      storeError: null,
    });
  });

  test("that is there only after the sandbox ran on is kept for the loss of its host, and does not bring the snapshot back", async () => {
    await world();
    const sandbox = await scheduler.paused();
    await scheduler.complete((await scheduler.begin(sandbox.id, "resume")).id, {
      state: "running",
    });
    expect(await report(sandbox, { state: "running", snapshot: storedAs("key/1-b") })).toBe(
      "applied",
    );
    const { sql } = scheduler.database;
    expect(
      await sql`SELECT store_key, dropped_at IS NULL AS is_there FROM snapshots WHERE sandbox_id = ${sandbox.id}`,
    ).toEqual([{ store_key: "key/1-b", is_there: false }]);
    expect(await report(sandbox, { state: "running", snapshot: storedAs("key/1-b") })).toBe(
      "nothing_new",
    );
  });
});

describe("a release", () => {
  test.each(["paused", "stopped"] as const)(
    "RH2: takes a %s sandbox off its host, frees what it held there, and has the copy discarded",
    async (state) => {
      await world();
      const { id, epoch } = await released(state);
      expect(await scheduler.sandbox(id)).toMatchObject({
        state,
        settledState: state,
        hostId: null,
        holdsMemory: false,
      });
      expect((await scheduler.used()).map(({ used }) => used)).toEqual([[0, 0, 0]]);
      const discards = () => scheduler.commands({ sandboxId: id, kind: "discard" });
      const command = { hostId: "home", epoch };
      expect(await discards()).toMatchObject([command]);
      // The message was lost: the host still has the copy, and reports it.
      expect(
        await report(await scheduler.sandbox(id), { state, snapshot: storedAs("key/1-b") }),
      ).toBe("foreign");
      expect(await discards()).toMatchObject([command, command]);
      expect(await report(await scheduler.sandbox(id), { state: "deleted" })).toBe("stale");
      expect((await facts(id)).at(-1)).toBe("released");
    },
  );

  test("RH1: is refused without a copy, of one that runs, and of one that changed meanwhile", async () => {
    await world();
    expect(await releaseFromHost(scheduler.deps, await scheduler.running())).toBe("not_possible");
    const paused = await scheduler.paused();
    expect(await releaseFromHost(scheduler.deps, paused)).toBe("not_replicated");
    expect(await releaseFromHost(scheduler.deps, await stopped())).toBe("not_replicated");
    const stale = await replicated("paused");
    await scheduler.begin(stale.id, "resume");
    expect(await releaseFromHost(scheduler.deps, stale)).toBe("not_possible");
    expect(await scheduler.commands({ sandboxId: stale.id, kind: "discard" })).toEqual([]);
    expect(await releaseFromHost(scheduler.deps, await released("paused"))).toBe("not_possible");
  });

  test.each([
    ["paused", "resume"],
    ["stopped", "start"],
  ] as const)(
    "a %s sandbox is placed anywhere by a %s, which brings it from the store",
    async (state, verb) => {
      await world();
      const { id, epoch } = await released(state);
      await changeHost(scheduler.database.db, HOME, "cordon", "test");
      await scheduler.join("away", BIG);
      const operation = await scheduler.begin(id, verb);
      expect(operation).toMatchObject({ hostId: "away", originHostId: null, epoch: epoch + 1 });
      const { snapshot } = await scheduler.command(operation.id);
      expect(snapshot).toEqual({
        generation: 1,
        storeKey: "key/1-b",
        manifestSha256: SNAPSHOT.manifestSha256,
      });
      await scheduler.complete(operation.id, { state: "running" });
      expect(await scheduler.sandbox(id)).toMatchObject({ state: "running", hostId: "away" });
      await sumsAreRight();
    },
  );

  test.each([
    ["paused", "resume", "fails"],
    ["paused", "resume", "expires"],
    ["stopped", "start", "fails"],
    ["stopped", "start", "expires"],
    ["paused", "stop", "fails"],
    ["paused", "stop", "expires"],
  ] as const)(
    "a %s sandbox whose %s elsewhere %s uncommitted is in the store alone again",
    async (state, verb, how) => {
      await world();
      const { id } = await released(state);
      const operation = await scheduler.begin(id, verb);
      expect(operation.hostId).toBe("home");
      const error = { code: "SNAPSHOT_UNAVAILABLE", message: "The store is away." };
      const failed = await scheduler.seenOf(operation.id, {
        state: "failed",
        operation: { id: operation.id, outcome: "failed", error },
      });
      const discards = async () => await scheduler.commands({ sandboxId: id, kind: "discard" });
      const before = await discards();
      if (how === "expires") {
        expect(await expireOperation(scheduler.deps, operation)).toBe(true);
        // Later its host reports the same.
        expect(await scheduler.apply(failed)).toBe("stale");
        expect(await discards(), "what has arrived is kept").toEqual(before);
      } else {
        expect(await scheduler.apply(failed)).toBe("applied");
        expect(await scheduler.operation(operation.id)).toMatchObject({ status: "failed", error });
      }
      expect(await scheduler.sandbox(id)).toMatchObject({
        state,
        hostId: null,
        holdsMemory: false,
      });
      expect(await findSnapshot(scheduler.database.db, id)).toMatchObject({ storeKey: "key/1-b" });
      await sumsAreRight();
    },
  );

  test("a stop of a released paused sandbox is placed; a discard that comes late for the old place is known by its epoch", async () => {
    await world();
    const { id, epoch } = await released("paused");
    const stop = await scheduler.begin(id, "stop");
    expect(await scheduler.command(stop.id)).toMatchObject({
      hostId: "home",
      epoch: epoch + 1,
      snapshot: { storeKey: "key/1-b" },
    });
    await scheduler.complete(stop.id, { state: "stopped" });
    expect(await scheduler.sandbox(id)).toMatchObject({
      state: "stopped",
      hostId: "home",
      holdsMemory: false,
    });
    await sumsAreRight();
  });

  test("a released sandbox is deleted at once", async () => {
    await world();
    const { id } = await released("paused");
    await scheduler.begin(id, "delete");
    expect(await scheduler.sandbox(id)).toMatchObject({ state: "deleted" });
  });
});

describe("without a copy in the store", () => {
  const elsewhere = async () => {
    await world();
    const { id } = await scheduler.paused();
    await changeHost(scheduler.database.db, HOME, "cordon", "test");
    return id;
  };

  test("a paused sandbox moves straight from its host, while that lives", async () => {
    const id = await elsewhere();
    await scheduler.join("away", BIG);
    const resume = await scheduler.begin(id, "resume");
    expect(await scheduler.command(resume.id)).toMatchObject({
      hostId: "away",
      snapshot: { storeKey: null, sourceUrl: "http://home:9401" },
    });
  });

  test("S4: it goes on at home when nobody else can take it, cordoned or not, and waits for a home that is lost", async () => {
    const id = await elsewhere();
    const resume = await scheduler.begin(id, "resume");
    expect(resume).toMatchObject({ hostId: "home" });
    await scheduler.complete(resume.id, { state: "running" });
    const pause = await scheduler.begin(id, "pause");
    await scheduler.complete(pause.id, {
      state: "paused",
      snapshot: { ...SNAPSHOT, generation: 2 },
    });
    await scheduler.join("away", BIG);
    await scheduler.database
      .sql`UPDATE hosts SET lease_expires_at = now() - interval '1 second' WHERE id = 'home'`;
    expect(await scheduler.begin(id, "resume")).toMatchObject({
      status: "waiting",
      explain: { reasons: { other_host: 1 } },
    });
  });

  test("a stopped sandbox starts on its own host alone", async () => {
    await world();
    const { id } = await stopped();
    await changeHost(scheduler.database.db, HOME, "cordon", "test");
    await scheduler.join("away", BIG);
    expect(await scheduler.begin(id, "start")).toMatchObject({ hostId: "home" });
  });
});

describe("garbage in the store", () => {
  const ask = async (sandboxId: SandboxId, storeKeys: string[], asker = "home") =>
    await handleGarbage(scheduler.deps, asker, {
      type: "garbage",
      version: 1,
      hostId: HOME,
      sandboxes: [{ sandboxId, storeKeys }],
    });

  test("is what a later stored snapshot has made useless; what nobody has heard of yet is none", async () => {
    await world();
    const { id } = await scheduler.running();
    const [first, second, third] = [`${id}/1-aa`, `${id}/2-bb`, `${id}/3-cc`];
    const cycle = async (generation: number, storeKey: string | null, manifestSha256: string) => {
      const pause = await scheduler.begin(id, "pause");
      await scheduler.complete(pause.id, {
        state: "paused",
        snapshot: { ...SNAPSHOT, generation, storeKey, manifestSha256 },
      });
      return async () =>
        await scheduler.complete((await scheduler.begin(id, "resume")).id, { state: "running" });
    };
    await (
      await cycle(1, first, "a".repeat(64))
    )();
    expect(
      (await ask(id, [first, second])).storeKeys,
      "the newest stored, though it has been run",
    ).toEqual([]);
    const resume = await cycle(2, null, "b".repeat(64));
    expect((await ask(id, [first, second])).storeKeys, "the second is being written").toEqual([]);
    await resume();
    await cycle(3, third, "c".repeat(64));
    expect((await ask(id, [first, second, third, `${id}/4-dd`, "what is this"])).storeKeys).toEqual(
      [first, second],
    );
    expect((await ask(id, [first], "another host")).storeKeys).toEqual([]);
  });

  test("is all of a sandbox that was deleted a while ago, and nothing of one that the database does not know", async () => {
    await world();
    const { id } = await released("paused");
    await scheduler.begin(id, "delete");
    expect(await ask(id, ["key/1-b"])).toEqual({ deleted: [], storeKeys: [] });
    await scheduler.database
      .sql`UPDATE sandboxes SET updated_at = now() - interval '1 hour' WHERE id = ${id}`;
    expect(await ask(id, ["key/1-b"])).toEqual({ deleted: [id], storeKeys: [] });
    expect(await ask("1763309903rt5vs4lm" as SandboxId, ["1763309903rt5vs4lm/1-aa"])).toEqual({
      deleted: [],
      storeKeys: [],
    });
  });
});
