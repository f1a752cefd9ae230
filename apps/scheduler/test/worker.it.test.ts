/**
 * Two schedulers over one Postgres and one nats-server, and hosts that a test controls: messages
 * are lost, hosts fall silent, and both schedulers want the same.
 */
import { acceptRequest, findOperation, findSandbox, listEvents, markPublished } from "@torpor/db";
import { hostCommands, type HostId, type SandboxId } from "@torpor/contracts";
import { aRequester, leasesCouldBeRenewed, until } from "@torpor/testkit";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { ControlPlane } from "./support/control-plane.ts";
import { SNAPSHOT } from "./support/decisions.ts";
import { ScriptedHost } from "./support/scripted-host.ts";

const HOSTS = ["host-1", "host-2", "host-3"];

let plane: ControlPlane;
let host: ScriptedHost;
beforeAll(async () => {
  plane = await ControlPlane.start(HOSTS, 2);
  host = await ScriptedHost.join(plane.nats, "host-1", {
    capacity: { vcpu: 200, memoryMib: 12_800, diskMib: 12_800 },
  });
});
afterEach(() => {
  host.isDiligent = false;
});
afterAll(async () => {
  await host[Symbol.asyncDispose]();
  await plane[Symbol.asyncDispose]();
});

async function running(given: Parameters<ControlPlane["create"]>[0] = {}): Promise<SandboxId> {
  const { id, sandboxId } = await plane.create(given);
  await host.complete(await host.told(id));
  await plane.reaches(sandboxId, "running");
  return sandboxId;
}

/**
 * The host is lost, as the database sees it: its lease has ended, while other hosts were able to
 * renew theirs.
 */
async function lose(): Promise<void> {
  host.goSilent();
  await until("it is lost", async () => {
    await leasesCouldBeRenewed(plane.database);
    await plane.database
      .sql`UPDATE hosts SET lease_expires_at = now() - interval '1 second' WHERE id = 'host-1' AND state <> 'lost'`;
    return (
      (await plane.database.sql`SELECT 1 FROM hosts WHERE id = 'host-1' AND state = 'lost'`)
        .length > 0
    );
  });
}

test("a create is placed, assigned with a new epoch, and ends by what its host reports", async () => {
  const create = await plane.create({ envVars: { A: "b" } });
  const command = await host.told(create.id);
  expect(command).toMatchObject({
    kind: "create",
    hostId: "host-1",
    epoch: 1,
    opSeq: 1,
    spec: { sandboxId: create.sandboxId, envVars: { A: "b" } },
  });
  expect(await plane.sandbox(create.sandboxId)).toMatchObject({
    state: "creating",
    hostId: "host-1",
    holdsMemory: true,
  });
  expect(await host.commit(command)).toBe(true);
  await host.report(host.seen(command, { timingsMs: { restore: 7 } }));
  expect(await plane.becomes(create.id, "succeeded")).toMatchObject({ timingsMs: { restore: 7 } });
  expect(await plane.sandbox(create.sandboxId)).toMatchObject({
    state: "running",
    appliedEpoch: 1,
    appliedOpSeq: 1,
  });
});

test("how much has arrived of what an operation brings to its host is noted, from that host alone, while it lasts", async () => {
  const create = await plane.create();
  const command = await host.told(create.id);
  const busy = host.seen(command, { busyWith: create.id });
  const liar = await ScriptedHost.join(plane.nats, "host-2", {
    capacity: { vcpu: 1, memoryMib: 1, diskMib: 1 },
  });
  liar.heartbeat([
    { ...busy, hostId: "host-2" as HostId, fetching: { bytesDone: 9, bytesTotal: 9 } },
  ]);
  const noted = async (done: number) =>
    (await findOperation(plane.database.db, create.id))?.fetchedBytes?.done === done;
  for (const bytesDone of [4_000_000_000, 5_000_000_000]) {
    host.heartbeat([{ ...busy, fetching: { bytesDone, bytesTotal: 8_000_000_000 } }]);
    await until("it is noted", () => noted(bytesDone));
  }
  await host.complete(command);
  await plane.becomes(create.id, "succeeded");
  await liar[Symbol.asyncDispose]();
});

test("an observation that cannot be settled keeps no other one of its host's beat from it", async () => {
  const [bad, good] = [await running(), await running()];
  const [badPause, goodPause] = [await plane.ask(bad, "pause"), await plane.ask(good, "pause")];
  const commands = [await host.told(badPause.id), await host.told(goodPause.id)] as const;
  for (const command of commands) await host.commit(command);
  // Postgres accepts no text with a zero byte.
  const unspeakable = host.seen(commands[0], {
    state: "stopped",
    cause: { code: "\u0000", message: "" },
  });
  host.heartbeat([unspeakable, host.seen(commands[1])]);
  expect(await plane.becomes(goodPause.id, "succeeded")).toMatchObject({ sandboxId: good });
  expect(await plane.sandbox(bad)).toMatchObject({ state: "pausing" });
  await host.report(host.seen(commands[0]));
  await plane.becomes(badPause.id, "succeeded");
});

test("an observation under another host's name is refused by the broker, and one that lies in its body by the scheduler", async () => {
  const sandboxId = await running();
  const pause = await plane.ask(sandboxId, "pause");
  const command = await host.told(pause.id);
  const liar = await ScriptedHost.join(plane.nats, "host-2", {
    capacity: { vcpu: 1, memoryMib: 1, diskMib: 1 },
  });
  await liar.report({ ...host.seen(command), hostId: "host-1" as HostId });
  liar.heartbeat([{ ...host.seen(command), hostId: "host-1" as HostId }]);
  await host.report(
    host.seen(command, { state: "running", operation: { id: pause.id, outcome: "failed" } }),
  );
  expect(await plane.becomes(pause.id, "succeeded", "failed")).toMatchObject({ status: "failed" });
  await liar[Symbol.asyncDispose]();
});

test("S27, S29: of 200 operations under two schedulers each is begun once, and the capacity sums up at the end", async () => {
  host.isDiligent = true;
  const creates = await Promise.all(Array.from({ length: 100 }, () => plane.create()));
  await plane.allSucceed(creates);
  const later = await Promise.all(
    creates.map(({ sandboxId }, at) => plane.ask(sandboxId, at % 2 === 0 ? "pause" : "delete")),
  );
  await plane.allSucceed(later);
  const { sql } = plane.database;
  const sandboxIds = creates.map(({ sandboxId }) => sandboxId);
  await until("the deletes are confirmed", async () => {
    return (
      (await sql`SELECT 1 FROM sandboxes WHERE id IN ${sql(sandboxIds)} AND state = 'deleted'`)
        .length === 50
    );
  });
  const begun = await sql`SELECT payload->>'operationId' AS id, count(*)::int AS times FROM outbox
    WHERE subject LIKE '%.cmd.%' AND payload->>'operationId' IN ${sql([...creates, ...later].map(({ id }) => id))} GROUP BY 1`;
  expect(begun).toHaveLength(200);
  expect(begun.filter((row) => row["times"] !== 1)).toEqual([]);
  const epochs =
    await sql`SELECT count(*)::int AS runs FROM incarnations WHERE sandbox_id IN ${sql(sandboxIds)}`;
  expect(epochs[0]?.["runs"]).toBe(100);
  for (const { sandboxId } of creates) {
    const seqs = (await listEvents(plane.database.db, sandboxId, 100)).map(({ seq }) => seq);
    expect(seqs).toEqual(seqs.map((_, at) => at + 1));
  }
  const [sums] =
    await sql`SELECT memory_mib_used AS used, (SELECT sum(memory_mib)::int FROM sandboxes WHERE host_id = hosts.id AND holds_memory) AS sum,
    disk_mib_used AS disk, (SELECT sum(disk_mib)::int FROM sandboxes WHERE host_id = hosts.id AND state <> 'deleted') AS disk_sum FROM hosts WHERE id = 'host-1'`;
  expect([sums?.["used"], sums?.["disk"]]).toEqual([sums?.["sum"], sums?.["disk_sum"]]);
});

test("S22: an operation whose announcement was lost is found and begun", async () => {
  const sandboxId = await running();
  const pause = await plane.ask(sandboxId, "pause");
  await host.complete(await host.told(pause.id));
  await plane.becomes(pause.id, "succeeded");
  const accepted = await acceptRequest(
    plane.database.db,
    sandboxId,
    "resume",
    aRequester(plane.database),
  );
  if (accepted.kind !== "accepted") throw new Error(accepted.kind);
  await markPublished(
    plane.database.db,
    accepted.messages.map(({ id }) => id),
  );
  await host.complete(await host.told(accepted.operation.id));
  await plane.becomes(accepted.operation.id, "succeeded");
});

test("S24: an operation that waits begins when the one before it has settled", async () => {
  const sandboxId = await running();
  const pause = await plane.ask(sandboxId, "pause");
  const command = await host.told(pause.id);
  await host.commit(command);
  const resume = await plane.ask(sandboxId, "resume");
  await plane.round("drive-waiting");
  expect((await plane.becomes(resume.id, "waiting")).startedAt).toBeNull();
  await host.report(host.seen(command));
  expect(await host.told(resume.id)).toMatchObject({
    kind: "resume",
    epoch: 2,
    opSeq: 3,
    snapshot: { generation: 1 },
  });
  await host.complete(await host.told(resume.id));
  await plane.becomes(resume.id, "succeeded");
});

test("S16: an operation that its host never commits expires; the sandbox is where it was, and goes on from there", async () => {
  const sandboxId = await running();
  const pause = await plane.ask(sandboxId, "pause");
  const command = await host.told(pause.id);
  await plane.database.sql`UPDATE operations SET deadline_at = now() WHERE id = ${pause.id}`;
  expect(await plane.becomes(pause.id, "failed")).toMatchObject({
    error: { code: "OPERATION_TIMEOUT" },
  });
  expect(await plane.sandbox(sandboxId)).toMatchObject({ state: "running", holdsMemory: true });
  expect(await host.commit(command)).toBe(false);
  expect(
    await until("it is told to back out", () =>
      host.commands.find(({ cancels }) => cancels === pause.id),
    ),
  ).toMatchObject({
    kind: "cancel",
  });
  const again = await plane.ask(sandboxId, "pause");
  await host.complete(await host.told(again.id));
  await plane.becomes(again.id, "succeeded");
});

test.each([
  ["it was done", "paused", "succeeded"],
  ["it was not", "running", "failed"],
] as const)(
  "a committed pause whose host falls silent is outcome_unknown, past any deadline, until the host is back: %s",
  async (_, state, status) => {
    const sandboxId = await running();
    const pause = await plane.ask(sandboxId, "pause");
    const command = await host.told(pause.id);
    expect(await host.commit(command)).toBe(true);
    await plane.database.sql`UPDATE operations SET deadline_at = now() WHERE id = ${pause.id}`;
    await lose();
    await plane.becomes(pause.id, "outcome_unknown");
    await plane.round("expire-operations");
    const view = await findSandbox(plane.database.db, sandboxId, plane.database.organizationId);
    expect(view).toMatchObject({
      sandbox: { state: "pausing", settledState: "running" },
      host: { state: "lost" },
      operation: { status: "outcome_unknown" },
    });

    host.renewLease();
    const outcome = {
      operation: {
        id: pause.id,
        outcome: state === "paused" ? ("succeeded" as const) : ("failed" as const),
      },
    };
    const inventory = [
      host.seen(command, {
        state,
        ...outcome,
        ...(state === "paused" ? { snapshot: SNAPSHOT } : {}),
      }),
    ];
    host.heartbeat(inventory);
    await plane.becomes(pause.id, status);
    expect(await plane.sandbox(sandboxId)).toMatchObject({ state, settledState: state });
    await until(
      "the host is back",
      async () =>
        (await plane.database.sql`SELECT 1 FROM hosts WHERE id = 'host-1' AND state = 'ready'`)
          .length > 0,
    );
  },
);

test("S41: a sandbox whose timeout has run out is deleted, by the same door as a user's delete, with an event that says so", async () => {
  const sandboxId = await running({ timeoutSeconds: 600 });
  await plane.database
    .sql`UPDATE sandboxes SET expires_at = now() - interval '1 second' WHERE id = ${sandboxId}`;
  await plane.reaches(sandboxId, "deleting");
  const [deletion] = await plane.database
    .sql`SELECT requested_by, status FROM operations WHERE sandbox_id = ${sandboxId} AND kind = 'delete'`;
  expect(deletion).toEqual({ requested_by: "system:timeout", status: "succeeded" });
});

test("streams and consumers that are removed are made anew while everything runs", async () => {
  const manager = await plane.bus.manager();
  await manager.consumers.delete("COMMANDS", hostCommands(host.id).durable);
  await manager.consumers.delete("INTENTS", "scheduler-intents");
  await manager.streams.delete("OBSERVATIONS");
  await manager.streams.delete("EVENTS");
  await plane.round("restore-bus");
  await running();
  expect(await manager.streams.names().next()).toEqual(
    expect.arrayContaining(["COMMANDS", "EVENTS", "INTENTS", "OBSERVATIONS"]),
  );
});

test("a create waits while no host can take it, says why, and begins when one joins", async () => {
  const create = await plane.create({ region: "elsewhere" });
  const explained = await until(
    "it is explained",
    async () => (await plane.becomes(create.id, "waiting")).explain,
  );
  expect(explained).toMatchObject({ reasons: { region: expect.any(Number) } });
  const late = await ScriptedHost.join(plane.nats, "host-3", { region: "elsewhere" });
  expect(await late.told(create.id)).toMatchObject({ hostId: "host-3" });
  await late[Symbol.asyncDispose]();
});
