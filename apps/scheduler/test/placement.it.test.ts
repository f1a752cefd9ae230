/**
 * Choices from outdated rows, and claims that race: over a real Postgres, with schedulers that do
 * not know of each other.
 */
import type { HostId } from "@torpor/contracts";
import {
  acceptCreate,
  applyVcpuOvercommit,
  changeHost,
  listPlacementHosts,
  type OperationRow,
  recordHeartbeats,
  registerHost,
} from "@torpor/db";
import {
  aHeartbeat,
  aHost,
  aRequester,
  aSandbox,
  type Databases,
  silentLog,
  sharedPostgres,
} from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { handlePlacement } from "../src/placement/handle-placement.ts";
import { beginOperation } from "../src/operations/begin-operation.ts";
import type { Deps } from "../src/deps.ts";
import { Placer } from "../src/placement/placer.ts";
import { requestToCreate } from "@torpor/placement";
import { Decisions } from "./support/decisions.ts";

const HOST_1 = "host-1" as HostId;
const HOST_2 = "host-2" as HostId;

const LONG_MS = 600_000;

let server: Databases;
let decisions: Decisions;
beforeAll(() => {
  server = sharedPostgres();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});
beforeEach(async () => {
  decisions = await Decisions.over(server);
});
afterEach(async () => {
  await decisions[Symbol.asyncDispose]();
});

/** A scheduler whose view of the fleet is read now, and kept until a claim fails. */
async function scheduler(): Promise<Deps> {
  const placer = new Placer(decisions.database.db, { maxAgeMs: LONG_MS });
  const wanted = {
    ...aSandbox(),
    organizationId: decisions.database.organizationId,
    placementLabels: {},
    antiAffinity: null,
    onHostLoss: "wait" as const,
  };
  await placer.rank(await requestToCreate(decisions.database.db, wanted), 1);
  return { ...decisions.deps, placer };
}

/** An accepted create that no scheduler has begun. */
async function accepted(
  given: Parameters<typeof aSandbox>[0] = {},
  organizationId = decisions.database.organizationId,
): Promise<OperationRow> {
  const { db } = decisions.database;
  const result = await acceptCreate(db, aSandbox(given), aRequester({ organizationId }));
  if (result.kind !== "accepted") throw new Error(`the create was not accepted: ${result.kind}`);
  return result.operation;
}

async function hostsOf(operations: OperationRow[]): Promise<(string | null)[]> {
  return await Promise.all(
    operations.map(async ({ id }) => (await decisions.operation(id)).hostId),
  );
}

const capacity = (memoryMib: number) => ({ capacity: { vcpu: 1000, memoryMib, diskMib: 100_000 } });

describe("a host that has changed since the scheduler looked is not claimed: another one is chosen, and of the first try nothing stands", () => {
  test.each<[string, string, () => Promise<unknown>]>([
    ["another scheduler has filled it", "other", () => decisions.beginCreate({ memoryMib: 4096 })],
    [
      "it was cordoned",
      "other",
      () => changeHost(decisions.database.db, "best" as HostId, "cordon", "test"),
    ],
    [
      "its lease ran out",
      "other",
      () =>
        decisions.database
          .sql`UPDATE hosts SET lease_expires_at = now() - interval '1 second' WHERE id = 'best'`,
    ],
    [
      "it registered anew, in another region",
      "other",
      () => decisions.join("best", { ...capacity(4096), region: "elsewhere" }),
    ],
    [
      "it got a fence, and is as good as before",
      "best",
      () => decisions.database.sql`UPDATE hosts SET has_fence = true WHERE id = 'best'`,
    ],
  ])("%s", async (_, chosen, change) => {
    await decisions.join("best", capacity(4096));
    await decisions.join("other", capacity(1024));
    const behind = await scheduler();
    await change();
    const create = await accepted({ memoryMib: 64 });
    expect(await beginOperation(behind, create.id)).toEqual({ kind: "begun" });
    const operation = await decisions.operation(create.id);
    expect(operation).toMatchObject({ hostId: chosen, epoch: 1, opSeq: 1 });
    expect(await decisions.commands({ operationId: create.id })).toHaveLength(1);
    const runs = await decisions.database
      .sql`SELECT host_id FROM incarnations WHERE sandbox_id = ${create.sandboxId}`;
    expect(runs.map((row) => row["host_id"])).toEqual([operation.hostId]);
    for (const { used, sum } of await decisions.used()) expect(used).toEqual(sum);
  });
});

test("S27, S29: three schedulers that each think the fleet is empty begin what fits, each once, and no more", async () => {
  await decisions.join("host-1", capacity(640));
  await decisions.join("host-2", capacity(640));
  const schedulers = await Promise.all([scheduler(), scheduler(), scheduler()]);
  const creates = await Promise.all(Array.from({ length: 30 }, () => accepted({ memoryMib: 64 })));
  await Promise.all(
    creates.flatMap(({ id }) => schedulers.map((deps) => beginOperation(deps, id))),
  );
  // As their reconcilers do: a try that failed is repeated, from new rows.
  for (const { id } of creates) await beginOperation(decisions.deps, id);
  expect(await decisions.used()).toMatchObject([
    { used: [10, 640, 160], sum: [10, 640, 160] },
    { used: [10, 640, 160], sum: [10, 640, 160] },
  ]);
  const waiting = (await Promise.all(creates.map(({ id }) => decisions.operation(id)))).filter(
    ({ status }) => status === "waiting",
  );
  expect(waiting).toHaveLength(10);
  for (const { id } of creates)
    expect(await decisions.commands({ operationId: id })).toHaveLength(
      waiting.some((one) => one.id === id) ? 0 : 1,
    );
  for (const { id } of waiting)
    expect((await decisions.operation(id)).explain).toEqual({
      hosts: 2,
      reasons: { memory: 2 },
      message: "None of 2 hosts can take it: 2 have less than 64 MiB of memory free.",
    });
});

describe("S50: what no host can take says so, in its operation and in the scheduler's log", () => {
  const logged = async (work: (deps: Deps) => Promise<unknown>) => {
    const log = silentLog();
    const info = vi.spyOn(log, "info");
    await work({ ...decisions.deps, log });
    return info.mock.calls as unknown[][];
  };

  test("once for each change of the reasons, and at last which hosts were passed over for which", async () => {
    await decisions.join("host-1", capacity(64));
    await decisions.join("host-2", { ...capacity(640), labels: { gpu: "yes" } });
    await changeHost(decisions.database.db, HOST_2, "cordon", "test");
    await decisions.beginCreate({ memoryMib: 64 });
    const { id, sandboxId } = await accepted({ memoryMib: 64 });
    const begin = (deps: Deps) => beginOperation(deps, id);
    const message =
      "None of 2 hosts can take it: 1 are cordoned or draining; 1 have less than 64 MiB of memory free.";
    const explain = { hosts: 2, reasons: { host_not_ready: 1, memory: 1 }, message };
    expect(await logged(begin)).toEqual([
      [{ sandboxId, operationId: id, ...explain }, "operation left waiting for capacity"],
    ]);
    expect(await logged(begin), "nothing new").toEqual([]);
    expect((await decisions.operation(id)).explain).toEqual(explain);
    await decisions.lose("host-2");
    expect(await logged(begin)).toMatchObject([
      [{ reasons: { host_lost: 1, memory: 1 } }, "operation left waiting for capacity"],
    ]);
    await decisions.join("host-2", capacity(640));
    await changeHost(decisions.database.db, HOST_2, "uncordon", "test");
    const began = {
      sandboxId,
      operationId: id,
      kind: "create",
      hostId: "host-2",
      epoch: 1,
      opSeq: 1,
      passedOver: { memory: 1 },
    };
    expect(await logged(begin)).toEqual([[began, "operation began"]]);
  });

  test("lost hosts are counted, also when all of them are, and while nobody has marked them", async () => {
    await decisions.join("host-1");
    await decisions.join("host-2");
    const running = await decisions.running();
    const paused = await decisions.paused();
    const { id } = await accepted();
    for (const hostId of ["host-1", "host-2"])
      await decisions.database
        .sql`UPDATE hosts SET lease_expires_at = now() - interval '1 second' WHERE id = ${hostId}`;
    await beginOperation(decisions.deps, id);
    const all = {
      hosts: 2,
      reasons: { host_lost: 2 },
      message: "None of 2 hosts can take it: 2 are lost (they do not answer).",
    };
    expect((await decisions.operation(id)).explain).toEqual(all);
    for (const hostId of ["host-1", "host-2"]) await decisions.lose(hostId);
    expect(await decisions.begin(paused.id, "resume")).toMatchObject({
      status: "waiting",
      explain: all,
    });
    const about = { sandboxId: running.id };
    expect(
      await handlePlacement(decisions.deps, { type: "placement", version: 1, about }),
    ).toMatchObject({ ...all, candidateCount: 0 });
    await decisions.join("host-2", capacity(16));
    await beginOperation(decisions.deps, id);
    expect((await decisions.operation(id)).explain).toMatchObject({
      hosts: 2,
      reasons: { host_lost: 1, memory: 1 },
    });
  });
});

describe("anti-affinity", () => {
  const separated = { antiAffinity: "web" };

  test("however many schedulers begin them at once, no host gets two sandboxes of a key; the rest waits, and says for what", async () => {
    for (const id of ["host-1", "host-2", "host-3"]) await decisions.join(id);
    const schedulers = await Promise.all([scheduler(), scheduler(), scheduler()]);
    const creates = await Promise.all(Array.from({ length: 6 }, () => accepted(separated)));
    await Promise.all(
      creates.flatMap(({ id }) => schedulers.map((deps) => beginOperation(deps, id))),
    );
    for (const { id } of creates) await beginOperation(decisions.deps, id);
    const hosts = await hostsOf(creates);
    expect(hosts.filter((id) => id !== null).toSorted()).toEqual(["host-1", "host-2", "host-3"]);
    const waits = creates[hosts.indexOf(null)];
    if (waits === undefined) throw new Error("none waits");
    expect((await decisions.operation(waits.id)).explain).toMatchObject({
      hosts: 3,
      reasons: { anti_affinity: 3 },
    });

    const deleted = creates[hosts.indexOf("host-2")];
    if (deleted === undefined) throw new Error("none is on host-2");
    await decisions.begin(deleted.sandboxId, "delete");
    await beginOperation(decisions.deps, waits.id);
    expect(await hostsOf([waits])).toEqual(["host-2"]);
  });

  test("keys of other organizations and other keys do not count", async () => {
    await decisions.join("host-1");
    const [other] = await decisions.database
      .sql`INSERT INTO organizations (name) VALUES ('other') RETURNING id`;
    const creates = [
      await accepted(separated),
      await accepted(separated, Number(other?.["id"])),
      await accepted({ antiAffinity: "db" }),
      await accepted(),
    ];
    for (const { id } of creates) await beginOperation(decisions.deps, id);
    expect(await hostsOf(creates)).toEqual(["host-1", "host-1", "host-1", "host-1"]);
  });

  test("a paused one keeps others of its key away, and resumes where it is", async () => {
    await decisions.join("host-1");
    const paused = await decisions.paused(null, separated);
    const second = await accepted(separated);
    await beginOperation(decisions.deps, second.id);
    expect((await decisions.operation(second.id)).explain).toMatchObject({
      reasons: { anti_affinity: 1 },
    });
    expect(await decisions.begin(paused.id, "resume")).toMatchObject({
      status: "executing",
      hostId: "host-1",
    });
  });

  test("one on its way to another host keeps others away from both: it may come back", async () => {
    await decisions.join("host-1");
    const paused = await decisions.paused("store-key", separated);
    await changeHost(decisions.database.db, HOST_1, "cordon", "test");
    await decisions.join("host-2");
    const resume = await decisions.begin(paused.id, "resume");
    expect(resume).toMatchObject({ hostId: "host-2", originHostId: "host-1" });
    await changeHost(decisions.database.db, HOST_1, "uncordon", "test");
    const second = await accepted(separated);
    await beginOperation(decisions.deps, second.id);
    expect((await decisions.operation(second.id)).explain).toMatchObject({
      hosts: 2,
      reasons: { anti_affinity: 2 },
    });
    await decisions.complete(resume.id, { state: "running" });
    await beginOperation(decisions.deps, second.id);
    expect(await hostsOf([second]), "it has arrived").toEqual(["host-1"]);
  });
});

test("labels are kept with the sandbox: its resume goes to no host without them", async () => {
  await decisions.join("host-1", { labels: { gpu: "yes" } });
  const paused = await decisions.paused("store-key", { placementLabels: { gpu: "yes" } });
  await changeHost(decisions.database.db, HOST_1, "cordon", "test");
  await decisions.join("host-2");
  const resume = await decisions.begin(paused.id, "resume");
  expect(resume).toMatchObject({
    status: "waiting",
    explain: { reasons: { host_not_ready: 1, labels: 1 } },
  });
  await decisions.join("host-2", { labels: { gpu: "yes", zone: "b" } });
  await beginOperation(decisions.deps, resume.id);
  expect(await hostsOf([resume])).toEqual(["host-2"]);
});

test("vCPUs are reserved up to the overcommit ratio; a lower one takes nothing from what runs, and binds as vCPUs become free", async () => {
  const { db, sql } = decisions.database;
  const vcpus = async () => {
    const [row] = await sql`SELECT vcpu_offered, vcpu_capacity, vcpu_used FROM hosts`;
    return [row?.["vcpu_offered"], row?.["vcpu_capacity"], row?.["vcpu_used"]];
  };
  await registerHost(
    db,
    aHost("host-1", { capacity: { vcpu: 3, memoryMib: 8192, diskMib: 8192 } }),
    LONG_MS,
    1.5,
  );
  const creates = [];
  for (let made = 0; made < 5; made += 1) creates.push(await decisions.beginCreate());
  expect(creates.map(({ status }) => status)).toEqual([
    "executing",
    "executing",
    "executing",
    "executing",
    "waiting",
  ]);
  expect(creates.at(-1)?.explain).toMatchObject({ reasons: { vcpu: 1 } });
  expect(await vcpus()).toEqual([3, 4, 4]);

  expect(await applyVcpuOvercommit(db, 1)).toEqual([]);
  expect(await vcpus()).toEqual([3, 4, 4]);
  const [first] = creates;
  if (first === undefined) throw new Error("nothing was created");
  await decisions.complete(first.id, { state: "running" });
  await decisions.complete((await decisions.begin(first.sandboxId, "stop")).id, {
    state: "stopped",
  });
  expect(await vcpus()).toEqual([3, 4, 3]);
  expect(await applyVcpuOvercommit(db, 1)).toEqual(["host-1"]);
  expect(await vcpus()).toEqual([3, 3, 3]);
  expect(await applyVcpuOvercommit(db, 2.5)).toEqual(["host-1"]);
  expect(await vcpus()).toEqual([3, 7, 3]);
  expect(await applyVcpuOvercommit(db, 2.5)).toEqual([]);
});

describe("starts under way", () => {
  const load = { vms: 0, residentBytes: 0, diskFreeMib: 1 };
  const starts = async () =>
    (await listPlacementHosts(decisions.database.db)).map(
      ({ id, startsAtOnce, startsUnderWay }) => [id, startsAtOnce, startsUnderWay],
    );

  test("are the creates, starts and resumes that a host was told of and has not reported on", async () => {
    await decisions.join("host-1");
    await decisions.join("host-2");
    await recordHeartbeats(decisions.database.db, [
      aHeartbeat("host-1", { load: { ...load, startsAtOnce: 4 } }),
    ]);
    await recordHeartbeats(decisions.database.db, [aHeartbeat("host-2", { load })]);
    const paused = await decisions.paused();
    const running = await decisions.running();
    const none = [
      ["host-1", 4, 0],
      ["host-2", null, 0],
    ];
    expect(await starts()).toEqual(none);
    const hostId = String(paused.hostId);
    const resume = await decisions.begin(paused.id, "resume");
    await decisions.begin(running.id, "pause");
    expect(await starts()).toEqual(none.map(([id, atOnce]) => [id, atOnce, id === hostId ? 1 : 0]));
    await decisions.complete(resume.id, { state: "running" });
    expect(await starts()).toEqual(none);
  });

  test("a crowd goes to two hosts by what each of them does at once, though one has far more room", async () => {
    await decisions.join("host-1", capacity(100_000));
    await decisions.join("host-2", capacity(20_000));
    await recordHeartbeats(decisions.database.db, [
      aHeartbeat("host-1", { load: { ...load, startsAtOnce: 2 } }),
    ]);
    await recordHeartbeats(decisions.database.db, [
      aHeartbeat("host-2", { load: { ...load, startsAtOnce: 6 } }),
    ]);
    const creates = [];
    for (let made = 0; made < 8; made += 1)
      creates.push(await decisions.beginCreate({ memoryMib: 1 }));
    const hosts = creates.map(({ hostId }) => hostId);
    expect(hosts.filter((id) => id === "host-1")).toHaveLength(2);
  });
});

describe("a dry run answers what then happens, and changes nothing", () => {
  const everything = async () => {
    const { sql } = decisions.database;
    return [
      [...(await sql`SELECT * FROM hosts ORDER BY id`)],
      [...(await sql`SELECT * FROM sandboxes ORDER BY id`)],
      [...(await sql`SELECT * FROM operations ORDER BY id`)],
    ];
  };
  const ask = (about: Parameters<typeof handlePlacement>[1]["about"]) =>
    handlePlacement(decisions.deps, { type: "placement", version: 1, about });

  test("for a new sandbox", async () => {
    await decisions.join("host-1", { ...capacity(4096), labels: { zone: "a" } });
    await decisions.join("host-2", { ...capacity(8192), labels: { zone: "a" } });
    await decisions.join("host-3", capacity(8192));
    const wanted = {
      ...aSandbox(),
      placementLabels: { zone: "a" },
      antiAffinity: null,
      onHostLoss: "wait" as const,
    };
    const before = await everything();
    const answer = await ask({ ...wanted, organizationId: decisions.database.organizationId });
    expect(answer).toMatchObject({
      policy: "local-first",
      hosts: 3,
      candidateCount: 2,
      reasons: { labels: 1 },
    });
    expect(answer.candidates.map(({ hostId }) => hostId)).toEqual(["host-2", "host-1"]);
    expect(await everything()).toEqual(before);
    expect(await decisions.beginCreate({ placementLabels: { zone: "a" } })).toMatchObject({
      hostId: "host-2",
    });
  });

  test.each([
    ["a snapshot that is on its host alone, which lives", null, ["host-1", "host-2"], {}],
    ["a snapshot that is stored", "store-key", ["host-1", "host-2"], {}],
  ])("for a paused one: %s", async (_, storeKey, hostIds, reasons) => {
    await decisions.join("host-1");
    const paused = await decisions.paused(storeKey);
    await decisions.join("host-2", capacity(8192));
    const before = await everything();
    const answer = await ask({ sandboxId: paused.id });
    expect(answer.candidates.map(({ hostId, isLocal }) => [hostId, isLocal])).toEqual(
      hostIds.map((id) => [id, id === "host-1"]),
    );
    expect(answer.reasons).toEqual(reasons);
    expect(await everything()).toEqual(before);
    expect(await decisions.begin(paused.id, "resume")).toMatchObject({ hostId: "host-1" });
  });

  test("for a paused one that a cordoned host alone has, while the others are full: it goes on there", async () => {
    await decisions.join("host-1");
    const paused = await decisions.paused(null);
    await changeHost(decisions.database.db, HOST_1, "cordon", "test");
    await decisions.join("host-2", capacity(16));
    const answer = await ask({ sandboxId: paused.id });
    expect(answer).toMatchObject({
      candidates: [{ hostId: "host-1", isLocal: true }],
      candidateCount: 1,
      reasons: { other_host: 1 },
    });
    expect(await decisions.begin(paused.id, "resume")).toMatchObject({
      status: "executing",
      hostId: "host-1",
    });
  });

  test("for a stopped one, whose disk is on one host", async () => {
    await decisions.join("host-1", { capacity: { vcpu: 8, memoryMib: 64, diskMib: 1024 } });
    const { id } = await decisions.running();
    await decisions.complete((await decisions.begin(id, "stop")).id, { state: "stopped" });
    await decisions.join("host-2");
    expect(await ask({ sandboxId: id })).toMatchObject({
      candidates: [{ hostId: "host-1" }],
      reasons: { other_host: 1 },
    });
    await changeHost(decisions.database.db, HOST_2, "cordon", "test");
    await decisions.beginCreate({ memoryMib: 64 });
    const message =
      "None of 2 hosts can take it: 1 are not host-1, where it is; 1 have less than 64 MiB of memory free.";
    expect(await ask({ sandboxId: id })).toMatchObject({
      candidates: [],
      reasons: { other_host: 1, memory: 1 },
      message,
    });
  });
});
