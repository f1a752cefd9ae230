/** Hosts that differ from the database: orphans, and missing sandboxes. */
import {
  type Heartbeat,
  type HostId,
  inventoryDigest,
  newSandboxId,
  type Observation,
  type SandboxId,
  unverifiedHostId,
  unverifiedSandboxId,
} from "@torpor/contracts";
import {
  completeInventory,
  listEvents,
  listFindings,
  listHostEvents,
  requestDiscard,
  type SandboxRow,
} from "@torpor/db";
import { anObservation, makeSandbox, type Databases, sharedPostgres } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { heartbeatHandler } from "../src/inventory/handle-heartbeats.ts";
import { Decisions, SNAPSHOT } from "./support/decisions.ts";

let server: Databases;
let scheduler: Decisions;
beforeAll(async () => {
  server = sharedPostgres();
  scheduler = await Decisions.over(server);
});
afterAll(async () => {
  await scheduler[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
});

const ROOM = { capacity: { vcpu: 1000, memoryMib: 64_000, diskMib: 64_000 } };
let hosts = 0;
/** A host of its own per test. */
async function host(): Promise<HostId> {
  hosts += 1;
  const id = unverifiedHostId(`host-${hosts}`);
  await scheduler.join(id, ROOM);
  return id;
}
const at = (hostId: HostId, sandboxId: SandboxId, given: Partial<Observation> = {}) =>
  anObservation({ hostId, sandboxId, state: "running", ...given });
const heartbeatOf = (hostId: HostId, inventory: Observation[], whole = inventory): Heartbeat => ({
  type: "heartbeat",
  version: 1,
  hostId,
  agentStartedAt: "",
  load: { vms: 0, residentBytes: 0, diskFreeMib: 0 },
  inventory,
  inventoryCount: whole.length,
  inventoryDigest: inventoryDigest(whole),
});
const hear = async (heartbeat: Heartbeat) =>
  await heartbeatHandler(scheduler.deps, async () => {})(heartbeat);
const heartbeat = async (hostId: HostId, inventory: Observation[]) =>
  await hear(heartbeatOf(hostId, inventory));
const findings = async (hostId: HostId) => await listFindings(scheduler.database.db, hostId, 100);
const told = async (sandboxId: SandboxId, kind: string) =>
  (await scheduler.commands({ sandboxId, kind })).length;
const facts = async (hostId: HostId) =>
  (await listHostEvents(scheduler.database.db, hostId, 100)).map(({ fact }) => fact);
const elapse = async (hostId: HostId) =>
  await scheduler.database
    .sql`UPDATE host_findings SET first_seen_at = first_seen_at - interval '1 minute',
    last_seen_at = last_seen_at - interval '1 minute', told_at = told_at - interval '1 minute' WHERE host_id = ${hostId}`;

describe("S30: a VM that the database does not know", () => {
  test("is to be frozen, is reported once, and is discarded only when an operator says so", async () => {
    const hostId = await host();
    const sandboxId = newSandboxId();
    for (let times = 0; times < 3; times += 1)
      expect(await scheduler.apply(at(hostId, sandboxId, { epoch: 4 }))).toBe("unknown_sandbox");
    expect(await findings(hostId)).toMatchObject([
      { sandboxId, kind: "unknown", epoch: 4, quarantined: false },
    ]);
    expect(
      await scheduler.commands({ sandboxId, kind: "quarantine" }),
      "the host is not told with every beat",
    ).toMatchObject([{ hostId, epoch: 4, opSeq: 1 }]);
    expect((await facts(hostId)).filter((fact) => fact === "sandbox_unknown")).toHaveLength(1);

    await elapse(hostId);
    await scheduler.apply(at(hostId, sandboxId, { epoch: 4, quarantined: true }));
    expect(await findings(hostId)).toMatchObject([
      { quarantined: true, message: expect.stringMatching(/frozen and cut off/) },
    ]);
    expect([
      await told(sandboxId, "quarantine"),
      await told(sandboxId, "discard"),
      await told(sandboxId, "delete"),
    ]).toEqual([1, 0, 0]);

    expect(await requestDiscard(scheduler.database.db, hostId, sandboxId, "test")).toEqual({
      kind: "requested",
    });
    await scheduler.apply(at(hostId, sandboxId, { epoch: 4, quarantined: true }));
    expect(await scheduler.commands({ sandboxId, kind: "discard" })).toMatchObject([
      { hostId, epoch: 5 },
    ]);
    expect(await scheduler.apply(at(hostId, sandboxId, { epoch: 5, state: "deleted" }))).toBe(
      "unknown_sandbox",
    );
    await elapse(hostId);
    await heartbeat(hostId, []);
    expect(await findings(hostId)).toEqual([]);
    expect((await facts(hostId)).slice(-2)).toEqual(["discard_requested", "finding_ended"]);
  });

  test("that is not running is reported, and left alone", async () => {
    const hostId = await host();
    const sandboxId = newSandboxId();
    await scheduler.apply(at(hostId, sandboxId, { state: "paused", snapshot: SNAPSHOT }));
    expect(await findings(hostId)).toMatchObject([{ sandboxId, kind: "unknown" }]);
    expect(await told(sandboxId, "quarantine")).toBe(0);
  });

  test("and does know again runs on", async () => {
    const hostId = await host();
    const { id } = await makeSandbox(scheduler.database, "running", { hostId });
    await scheduler.apply(at(hostId, id, { revision: 2, quarantined: true }));
    expect(await scheduler.commands({ sandboxId: id, kind: "unquarantine" })).toMatchObject([
      { hostId, epoch: 1 },
    ]);
  });
});

test("a run of a lower epoch than the sandbox's elsewhere is frozen while nobody knows whether the newer ran, and discarded once it has", async () => {
  const [old, current] = [await host(), await host()];
  const { id } = await makeSandbox(scheduler.database, "paused", {
    hostId: current,
    patch: { epoch: 3, opSeq: 5 },
  });
  const orphan = at(old, id, { epoch: 1 });
  expect(await scheduler.apply(orphan)).toBe("foreign");
  expect(await findings(old)).toMatchObject([{ sandboxId: id, kind: "stale", epoch: 1 }]);
  expect([await told(id, "quarantine"), await told(id, "discard")]).toEqual([1, 0]);
  await scheduler.database
    .sql`INSERT INTO incarnations (sandbox_id, epoch, host_id, started_at) VALUES (${id}, 3, ${current}, now())`;
  await scheduler.apply({ ...orphan, quarantined: true });
  expect(await scheduler.commands({ sandboxId: id, kind: "discard" })).toMatchObject([
    { hostId: old, epoch: 3 },
  ]);
});

describe("a run that the database does not know, of a sandbox that it does: it was restored from a backup", () => {
  async function restored(incarnation?: { epoch: number; startedAt: Date | null }) {
    const [ahead, current] = [await host(), await host()];
    const { id } = await makeSandbox(scheduler.database, "paused", { hostId: current });
    const { epoch = 0, startedAt = null } = incarnation ?? {};
    if (incarnation !== undefined)
      await scheduler.database
        .sql`INSERT INTO incarnations (sandbox_id, epoch, host_id, started_at) VALUES (${id}, ${epoch}, ${ahead}, ${startedAt})`;
    return { id, ahead };
  }

  test("is frozen and reported, and discarded only when an operator says so", async () => {
    const { id, ahead } = await restored();
    for (let times = 0; times < 3; times += 1)
      expect(await scheduler.apply(at(ahead, id, { epoch: 2 }))).toBe("foreign");
    expect(await findings(ahead)).toMatchObject([
      { sandboxId: id, kind: "unknown", epoch: 2, message: expect.stringContaining("epoch 2") },
    ]);
    expect([await told(id, "quarantine"), await told(id, "discard")]).toEqual([1, 0]);
    await elapse(ahead);
    await requestDiscard(scheduler.database.db, ahead, id, "test");
    await scheduler.apply(at(ahead, id, { epoch: 2, quarantined: true }));
    expect(await scheduler.commands({ sandboxId: id, kind: "discard" })).toMatchObject([
      { hostId: ahead, epoch: 3 },
    ]);
  });

  test("is left alone and reported while it stands still: it may be the newest there is", async () => {
    const { id, ahead } = await restored();
    await scheduler.apply(at(ahead, id, { epoch: 2, state: "paused", snapshot: SNAPSHOT }));
    expect(await findings(ahead)).toMatchObject([{ sandboxId: id, kind: "unknown" }]);
    expect([await told(id, "quarantine"), await told(id, "discard")]).toEqual([0, 0]);
  });

  test("is not taken for one that never ran because the database has not heard of its start", async () => {
    const { id, ahead } = await restored({ epoch: 2, startedAt: null });
    await scheduler.apply(at(ahead, id, { epoch: 2 }));
    expect([await told(id, "quarantine"), await told(id, "discard")]).toEqual([1, 0]);
    await scheduler.apply(at(ahead, id, { epoch: 2, state: "paused" }));
    expect(await told(id, "discard"), "that one has not").toBe(1);
  });
});

describe("a sandbox that its host does not have", () => {
  async function lost(): Promise<{ hostId: HostId; sandbox: SandboxRow; other: Observation }> {
    const hostId = await host();
    const sandbox = await makeSandbox(scheduler.database, "paused", { hostId });
    const other = at(hostId, (await makeSandbox(scheduler.database, "running", { hostId })).id);
    return { hostId, sandbox, other };
  }
  async function reported() {
    const given = await lost();
    await heartbeat(given.hostId, [given.other]);
    await elapse(given.hostId);
    for (let times = 0; times < 2; times += 1) await heartbeat(given.hostId, [given.other]);
    return given;
  }
  const view = async (id: SandboxId) => await scheduler.sandbox(id);

  test("RI2: is reported after several inventories without it, in its history too, and keeps its state", async () => {
    const { hostId, sandbox, other } = await lost();
    await heartbeat(hostId, [other]);
    await elapse(hostId);
    await heartbeat(hostId, [other]);
    expect(await findings(hostId), "twice is not enough").toEqual([]);
    await heartbeat(hostId, [other]);
    expect(await findings(hostId)).toMatchObject([{ sandboxId: sandbox.id, kind: "missing" }]);
    expect(await view(sandbox.id)).toMatchObject({
      state: "paused",
      hostId,
      condition: { code: "host_lost_sandbox" },
    });
    expect((await listEvents(scheduler.database.db, sandbox.id, 100)).at(-1)).toMatchObject({
      fact: "missing_on_host",
      cause: { code: "host_lost_sandbox", message: expect.stringContaining(hostId) },
    });
    expect(await requestDiscard(scheduler.database.db, hostId, sandbox.id, "test")).toEqual({
      kind: "missing",
    });
  });

  test("RI3: is itself again when the host shows it again", async () => {
    const { hostId, sandbox, other } = await reported();
    await heartbeat(hostId, [other, at(hostId, sandbox.id, { state: "paused" })]);
    expect(await findings(hostId)).toEqual([]);
    expect(await view(sandbox.id)).toMatchObject({ state: "paused", condition: null });
    expect((await listEvents(scheduler.database.db, sandbox.id, 100)).at(-1)?.fact).toBe(
      "found_on_host",
    );
  });

  test("is nobody's finding any more once it is deleted", async () => {
    const { hostId, sandbox, other } = await reported();
    const deletion = await scheduler.begin(sandbox.id, "delete");
    await scheduler.apply(await scheduler.seenOf(deletion.id, { state: "deleted" }));
    await heartbeat(hostId, [other]);
    expect(await findings(hostId)).toEqual([]);
  });

  test("RI1: is not missing while an operation executes, nor by an inventory whose digest is another's", async () => {
    const { hostId, sandbox, other } = await lost();
    const wrong = { ...heartbeatOf(hostId, [other]), inventoryDigest: "" };
    for (let times = 0; times < 4; times += 1) {
      await hear(wrong);
      await elapse(hostId);
    }
    await scheduler.database.sql`UPDATE sandboxes SET state = 'running' WHERE id = ${sandbox.id}`;
    await scheduler.database
      .sql`INSERT INTO operations (id, sandbox_id, organization_id, kind, status, requested_by, deadline_at)
      VALUES (${`op_${"1".repeat(32)}`}, ${sandbox.id}, ${scheduler.database.organizationId}, 'resume', 'outcome_unknown', 'test', now())`;
    for (let times = 0; times < 4; times += 1) {
      await heartbeat(hostId, [other]);
      await elapse(hostId);
    }
    expect(await findings(hostId)).toEqual([]);
    expect(await view(sandbox.id)).toMatchObject({ condition: null });
  });
});

test("an inventory in parts is whole when the last part is in, whichever scheduler received it, and parts of another are not mixed in", async () => {
  const { db } = scheduler.database;
  const hostId = await host();
  const all = Array.from({ length: 5 }, (_, index) =>
    at(hostId, unverifiedSandboxId(`176330990${index}aaaaaaaa`)),
  );
  const changed = all.map((one, index) => (index === 4 ? { ...one, revision: 2 } : one));
  const part = async (whole: Observation[], entries: Observation[]) =>
    (
      await completeInventory(db, {
        hostId,
        entries,
        count: whole.length,
        digest: inventoryDigest(whole),
      })
    )?.map(({ revision }) => revision);
  expect(await part(all, all.slice(0, 2))).toBeUndefined();
  expect(await part(changed, changed.slice(2))).toBeUndefined();
  expect(await part(changed, changed.slice(2)), "the same part again").toBeUndefined();
  expect((await part(changed, changed.slice(0, 2)))?.toSorted()).toEqual([1, 1, 1, 1, 2]);
  expect(await part([], [])).toEqual([]);
});
