/**
 * The rules of auto-pause, on a real Postgres: the idle clock, which sandboxes count as idle, and
 * what becomes of the condition when others join.
 */
import { newSandboxId, type SandboxId } from "@torpor/contracts";
import {
  acceptRequest,
  acceptWithin,
  changeSandbox,
  type DatabaseHandle,
  findSandboxRow,
  inTransaction,
  listDelayedPauses,
  listIdleSandboxes,
  openDatabase,
  patchSandbox,
  recordHeartbeats,
  type SeenActivity,
} from "@torpor/db";
import { aHeartbeat, type Databases, sharedPostgres } from "@torpor/testkit";
import postgres from "postgres";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";

let server: Databases;
let database: DatabaseHandle;
let sql: postgres.Sql;
let organizationId: number;
beforeAll(async () => {
  server = sharedPostgres();
  const url = await server.database();
  database = openDatabase(url);
  sql = postgres(url, { max: 1 });
  const [row] = await sql`INSERT INTO organizations (name) VALUES ('test') RETURNING id`;
  organizationId = Number(row?.["id"]);
});
afterAll(async () => {
  await sql.end();
  await database.close();
  await server[Symbol.asyncDispose]();
});

let addresses = 0;
/** Inserts a sandbox on host-1 at epoch 3, by default running. Times are seconds before now. */
async function running(options: {
  idleSeconds: number | null;
  lastActiveSecondsAgo: number;
  state?: string;
}): Promise<SandboxId> {
  const id = newSandboxId();
  addresses += 1;
  await sql`
    INSERT INTO sandboxes (id, organization_id, template_id, template_name, image_sha256, state, settled_state, epoch, host_id, region, vcpu, memory_mib, disk_mib,
      internet_access, env_vars, metadata, edge_address, auto_pause_idle_seconds, last_active_at)
    VALUES (${id}, ${organizationId}, 't', 't', 'x', ${options.state ?? "running"}, 'running', 3, 'host-1', 'local', 1, 64, 16, true, '{}', '{}', ${`127.64.0.${addresses}`},
      ${options.idleSeconds}, now() - ${options.lastActiveSecondsAgo} * interval '1 second')`;
  return id;
}

async function host(fields: { lastHeartbeatSecondsAgo: number; state?: string }): Promise<void> {
  await sql`
    INSERT INTO hosts (id, state, region, data_plane_url, labels, driver, driver_fingerprint, agent_version, image_sha256s, vcpu_capacity, memory_mib_capacity,
      disk_mib_capacity, lease_expires_at, last_beat_at)
    VALUES ('host-1', ${fields.state ?? "ready"}, 'local', 'http://127.0.0.1', '{}', 'simulated', 'f', '1', '[]', 9, 999, 999, now(), now() - ${fields.lastHeartbeatSecondsAgo} * interval '1 second')
    ON CONFLICT (id) DO UPDATE SET state = excluded.state, last_beat_at = excluded.last_beat_at`;
}

const idle = async () =>
  (await listIdleSandboxes(database.db, 100)).map(({ sandbox }) => sandbox.id);
const lastActive = async (id: SandboxId) =>
  (await findSandboxRow(database.db, id))?.lastActiveAt?.getTime() ?? 0;
const seen = (sandboxId: SandboxId, lastActiveMsAgo: number, epoch = 3) => [
  { sandboxId, epoch, lastActiveMsAgo },
];
const hear = (hostId: string, activity: SeenActivity[]) =>
  recordHeartbeats(database.db, [aHeartbeat(hostId, { activity })]);
const pause = (id: SandboxId, onlyIfIdleForMs?: number) =>
  acceptRequest(database.db, id, "pause", {
    organizationId,
    requestedBy: "test",
    deadlineMs: 60_000,
    onlyIfIdleForMs,
  });
const conditionOf = async (operationId: string) => {
  const [row] = await sql`SELECT only_if_idle_for_ms FROM operations WHERE id = ${operationId}`;
  return row?.["only_if_idle_for_ms"];
};

beforeEach(() => host({ lastHeartbeatSecondsAgo: 0 }));

describe("who is idle", () => {
  test("S54: a running sandbox with the policy, unused for as long as it says when its host last spoke, and nothing else", async () => {
    const wanted = await running({ idleSeconds: 60, lastActiveSecondsAgo: 61 });
    const others = [
      await running({ idleSeconds: 60, lastActiveSecondsAgo: 59 }),
      await running({ idleSeconds: null, lastActiveSecondsAgo: 999 }),
      await running({ idleSeconds: 60, lastActiveSecondsAgo: 999, state: "pausing" }),
    ];
    const busy = await running({ idleSeconds: 60, lastActiveSecondsAgo: 999 });
    await acceptRequest(database.db, busy, "stop", {
      organizationId,
      requestedBy: "test",
      deadlineMs: 60_000,
    });
    const found = await idle();
    expect(found).toContain(wanted);
    for (const id of [...others, busy]) expect(found).not.toContain(id);
  });

  test("S37: a host that has been silent says nothing about its sandboxes: time that it did not report is not idle time", async () => {
    const id = await running({ idleSeconds: 60, lastActiveSecondsAgo: 65 });
    expect(await idle()).toContain(id);
    await host({ lastHeartbeatSecondsAgo: 8 });
    expect(await idle()).not.toContain(id);
    await host({ lastHeartbeatSecondsAgo: 0, state: "lost" });
    expect(await idle()).not.toContain(id);
  });
});

describe("a sandbox that is resumed right after it was paused for want of use", () => {
  const kinds = { pause: "pause", resume: "resume" } as const;
  let operations = 0;
  const operation = async (
    id: string,
    kind: keyof typeof kinds,
    by: string,
    secondsAgo: number,
  ) => {
    operations += 1;
    await sql`INSERT INTO operations (id, sandbox_id, organization_id, kind, status, requested_by, deadline_at, created_at, ended_at)
      VALUES (${`op_${operations}`}, ${id}, ${organizationId}, ${kind}, 'succeeded', ${by}, now(), now() - ${secondsAgo} * interval '1 second',
        now() - ${secondsAgo - 1} * interval '1 second')`;
  };
  /** Records that the sandbox slept this long each time, the newest first. */
  const slept = async (
    id: string,
    sleepSeconds: number,
    times: number,
    by = "system:auto-pause",
  ) => {
    for (let at = 0; at < times; at += 1) {
      await operation(id, "pause", by, 200 + at * 200 + sleepSeconds);
      await operation(id, "resume", "system:auto-resume", 200 + at * 200);
    }
  };
  const idleTimeOf = async (id: string) => {
    const all = await listIdleSandboxes(database.db, 100);
    return all.find(({ sandbox }) => sandbox.id === id)?.idleSeconds;
  };
  const delayed = async (id: SandboxId) => {
    const all = await listDelayedPauses(database.db, "timeout_set", 100);
    return all.find(({ sandbox }) => sandbox.id === id)?.idleSeconds;
  };

  test.each([
    [0, 30],
    [1, 30],
    [2, 60],
    [3, 120],
    [4, 240],
    [9, 600],
  ])("after %d short sleeps in an hour it is paused after %d s", async (times, seconds) => {
    const id = await running({ idleSeconds: 30, lastActiveSecondsAgo: seconds + 2 });
    await slept(id, 10, times);
    expect(await idleTimeOf(id)).toBe(seconds);
    const notYet = await running({ idleSeconds: 30, lastActiveSecondsAgo: seconds - 2 });
    await slept(notYet, 10, times);
    expect(await idleTimeOf(notYet)).toBeUndefined();
    expect(await delayed(notYet)).toBe(seconds === 30 ? undefined : seconds);
  });

  test("sleeps that were worth it, pauses of users, and what was over an hour ago do not count", async () => {
    const id = await running({ idleSeconds: 30, lastActiveSecondsAgo: 33 });
    await slept(id, 90, 5);
    await slept(id, 10, 5, "api-key:1");
    for (let at = 0; at < 5; at += 1) {
      await operation(id, "pause", "system:auto-pause", 4_000 + at * 100);
      await operation(id, "resume", "system:auto-resume", 3_950 + at * 100);
    }
    expect(await idleTimeOf(id)).toBe(30);
    expect(await delayed(id)).toBeUndefined();
  });

  test("a policy that waits for long is not made shorter, and its owner is told once after each resume", async () => {
    const long = await running({ idleSeconds: 900, lastActiveSecondsAgo: 902 });
    await slept(long, 10, 5);
    expect(await idleTimeOf(long)).toBe(900);
    const id = await running({ idleSeconds: 30, lastActiveSecondsAgo: 40 });
    await slept(id, 10, 3);
    expect(await delayed(id)).toBe(120);
    await changeSandbox(database.db, id, organizationId, () => ({
      fact: "timeout_set",
      patch: {},
    }));
    expect(await delayed(id)).toBeUndefined();
    await operation(id, "pause", "system:auto-pause", -1);
    await operation(id, "resume", "system:auto-resume", -2);
    expect(await delayed(id)).toBe(240);
  });
});

describe("the idle clock", () => {
  test("goes forward by what the host reports of that very run, never back, and only where there is a policy", async () => {
    const id = await running({ idleSeconds: 60, lastActiveSecondsAgo: 30 });
    const without = await running({ idleSeconds: null, lastActiveSecondsAgo: 30 });
    const before = await lastActive(id);
    const generation = (await findSandboxRow(database.db, id))?.generation;
    await hear("host-1", [...seen(id, 40_000), ...seen(without, 0)]);
    await hear("host-1", seen(id, 0, 2));
    await hear("host-2", seen(id, 0));
    expect(await lastActive(id)).toBe(before);
    await hear("host-1", seen(id, 10_000));
    expect(Math.round(((await lastActive(id)) - before) / 1_000)).toBe(20);
    expect((await findSandboxRow(database.db, id))?.generation).toBe(generation);
    expect(Date.now() - (await lastActive(without))).toBeGreaterThan(29_000);
  });

  test("starts anew when the policy is set, not when something else is", async () => {
    const id = await running({ idleSeconds: 60, lastActiveSecondsAgo: 999 });
    await patchSandbox(database.db, id, organizationId, { autoResume: true });
    expect(await idle()).toContain(id);
    await patchSandbox(database.db, id, organizationId, { autoPauseIdleSeconds: 60 });
    expect(await idle()).not.toContain(id);
  });
});

test("whoever joins a conditional pause that waits without a condition makes it one for any; the system itself does not", async () => {
  const id = await running({ idleSeconds: 60, lastActiveSecondsAgo: 999 });
  // As part of a larger transaction, so that the pause waits to be begun.
  const asked = {
    organizationId,
    requestedBy: "test",
    deadlineMs: 60_000,
    onlyIfIdleForMs: 60_000,
  };
  const first = await inTransaction(database.db, (tx) => acceptWithin(tx, id, "pause", asked));
  if (first.kind !== "accepted") throw new Error(first.kind);
  expect(await pause(id, 60_000)).toMatchObject({ kind: "accepted", isNew: false });
  expect(await conditionOf(first.operation.id)).toBe(60_000);
  expect(await pause(id)).toMatchObject({
    kind: "accepted",
    isNew: false,
    operation: { id: first.operation.id },
  });
  expect(await conditionOf(first.operation.id)).toBeNull();
});
