/**
 * A host is not trusted: what it may send over the real bus with its own credentials harms only
 * itself.
 */
import { type Bus, connectBus, inboxPrefixOf } from "@torpor/bus";
import {
  type HostId,
  type Observation,
  type Question,
  type RegisterRequest,
  type SandboxId,
  STREAMS,
  subjects,
  unverifiedSandboxId,
} from "@torpor/contracts";
import { createTemplate, listFindings, listTemplates, findHostOverview } from "@torpor/db";
import { aHost, anObservation, until } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { SNAPSHOT } from "./support/decisions.ts";
import { ControlPlane } from "./support/control-plane.ts";
import { ScriptedHost } from "./support/scripted-host.ts";

const STRANGER = "stranger" as HostId;
const HONEST = "host-1" as HostId;
const TEMPLATE = "code-interpreter";
const ROOM = { capacity: { vcpu: 100, memoryMib: 6_400, diskMib: 6_400 } };

let plane: ControlPlane;
/** Behaves as a host should. */
let honest: ScriptedHost;
/** Has the credentials of the other host, and behaves badly. */
let stranger: Bus;
beforeAll(async () => {
  plane = await ControlPlane.start(["host-1", STRANGER]);
  honest = await ScriptedHost.join(plane.nats, "host-1", ROOM);
  honest.isDiligent = true;
  stranger = await connectBus({ ...plane.nats.as(STRANGER), name: STRANGER, hostId: STRANGER });
  await register();
});
afterAll(async () => {
  await stranger.close();
  await honest[Symbol.asyncDispose]();
  await plane[Symbol.asyncDispose]();
});

/** The image of an honest host. */
function anImage(): RegisterRequest["images"][number] {
  const [image] = aHost("host-1").images;
  if (image === undefined) throw new Error("a host of tests has an image");
  return image;
}

const ask = async (question: Question, request: object): Promise<Record<string, unknown>> => {
  const subject = subjects.request(STRANGER, question);
  const reply = await stranger.connection.request(subject, JSON.stringify(request), {
    timeout: 10_000,
  });
  return reply.json();
};
const hostRow = async () => await plane.database.sql`SELECT * FROM hosts WHERE id = ${STRANGER}`;
const register = (given: Partial<RegisterRequest> = {}) =>
  ask("register", aHost(STRANGER, { capacity: { vcpu: 0, memoryMib: 0, diskMib: 0 }, ...given }));
const report = (seen: object) =>
  stranger.jetstream.publish(subjects.observation(STRANGER, "running"), JSON.stringify(seen));
const ownSeen = (given: Partial<Observation> = {}) => ({
  ...anObservation({
    hostId: STRANGER,
    sandboxId: "1763309903strange1" as SandboxId,
    state: "running",
  }),
  ...given,
});

const numbered = (kind: string, at: number) =>
  unverifiedSandboxId(`1763309903${kind}${String(at).padStart(7, "0")}`);
/** False: as many messages wait as may. */
const isStored = async (seen: object) =>
  await report(seen).then(
    () => true,
    () => false,
  );
const observations = async () =>
  await (await plane.bus.manager()).consumers.info("OBSERVATIONS", "scheduler-observations");

/**
 * Checks that a sandbox on the honest host reaches running: nothing holds up the host's reports.
 */
async function isAllHealthy(): Promise<SandboxId> {
  const { id, sandboxId } = await plane.create();
  await plane.becomes(id, "succeeded");
  return sandboxId;
}

test("a host that gets an account of its own, or loses it, goes on with its next command", async () => {
  await using other = await ControlPlane.start(["host-1"], 1, ["host-1"]);
  await using host = await ScriptedHost.join(other.nats, "host-1", ROOM);
  host.isDiligent = true;
  for (const shared of [undefined, [], ["host-1"], []]) {
    if (shared !== undefined) await other.nats.share(shared);
    const { id } = await other.create();
    await other.becomes(id, "succeeded");
  }
});

describe("a registration", () => {
  const capacity = (given: object) =>
    ({ capacity: { vcpu: 1, memoryMib: 1, diskMib: 1, ...given } }) as Partial<RegisterRequest>;
  test.each<[string, Partial<RegisterRequest>, RegExp]>([
    ["no address", { dataPlaneUrl: "not a url" }, /dataPlaneUrl must look like http/],
    ["a port that there is not", { dataPlaneUrl: "http://10.0.0.5:94011" }, /dataPlaneUrl/],
    ["a file", { dataPlaneUrl: "file:///etc/passwd" }, /begins with file:/],
    ["a path", { dataPlaneUrl: "http://10.0.0.5:9401/x?" }, /more than a host and a port/],
    ["a password", { dataPlaneUrl: "http://a:b@10.0.0.5:9401" }, /more than a host and a port/],
    ["memory below nothing", capacity({ memoryMib: -1 }), /capacity\/memoryMib/],
    ["more memory than there is", capacity({ memoryMib: 2 ** 40 }), /capacity\/memoryMib/],
    ["more processors than there are", capacity({ vcpu: 200_000 }), /capacity\/vcpu/],
    ["a text that no database stores", { region: "eu\u0000" }, /region/],
    ["a text without end", { agentVersion: "x".repeat(5_000) }, /agentVersion/],
    ["a region without end", { region: "x".repeat(257) }, /region must have 256/],
    [
      "labels without end",
      { labels: Object.fromEntries(Array.from({ length: 257 }, (_, at) => [`n${at}`, "x"])) },
      /labels must be 256/,
    ],
    ["a fingerprint without end", { restorableFingerprints: ["x".repeat(257)] }, /restorableFing/],
    ["labels that are none", { labels: { a: 1 } as never }, /labels/],
  ])("with %s is refused, and told why", async (_what, given, reason) => {
    const before = await hostRow();
    expect(await register(given)).toMatchObject({
      granted: false,
      leaseMs: 0,
      reason: expect.stringMatching(reason),
    });
    expect(await hostRow()).toEqual(before);
  });

  test.each<[string, RegisterRequest["images"][number], RegExp]>([
    ["that is named by no digest", { ...anImage(), sha256: "latest" }, /images\/0\/sha256/],
    ["with a name without end", { ...anImage(), templateName: "x".repeat(257) }, /templateName/],
  ])("with an image %s is refused", async (_what, image, reason) => {
    expect(await register({ images: [image] })).toMatchObject({
      granted: false,
      reason: expect.stringMatching(reason),
    });
  });

  test("with an image changes no template, and gets nothing of one whose image it has not", async () => {
    const { db } = plane.database;
    const template = await createTemplate(db, TEMPLATE, {
      displayName: "Ours",
      description: "",
      category: "test",
      language: "python",
      vcpu: 1,
      memoryMib: 64,
      diskMib: 16,
      imageSha256: anImage().sha256,
    });
    const theirs = { ...anImage(), sha256: "e".repeat(64), displayName: "Theirs" };
    const unheard = { ...theirs, templateName: "unheard-of" };
    const most = { vcpu: 10_000, memoryMib: 640_000, diskMib: 640_000 };
    const offer = { capacity: most, images: [theirs, unheard] };
    expect(await register(offer)).toMatchObject({ granted: true });
    expect(await listTemplates(db)).toEqual([template]);
    const standing = await findHostOverview(db, STRANGER);
    expect(standing?.templates).toEqual({
      held: [],
      mismatched: [{ template, shownSha256s: [theirs.sha256] }],
    });
    // host-1 is the emptier host.
    const { id } = await plane.create();
    expect((await plane.becomes(id, "succeeded")).hostId).toBe("host-1");
    await register();
  });

  test("as another host is refused", async () => {
    expect(await ask("register", aHost("host-1"))).toMatchObject({ granted: false });
  });
});

describe("an observation", () => {
  test.each<[string, object]>([
    ["an epoch beyond all numbers", ownSeen({ epoch: 2 ** 40 })],
    ["a revision beyond all numbers", ownSeen({ revision: 2 ** 31 })],
    ["a text that no database stores", ownSeen({ cause: { code: "\u0000", message: "x" } })],
    ["half a character", ownSeen({ cause: { code: "\ud800", message: "x" } })],
    ["something else", { hello: "world" }],
  ])("with %s is rejected once, and holds up no other host's", async (_what, seen) => {
    for (let times = 0; times < 40; times += 1) await report(seen);
    await isAllHealthy();
    expect(await observations()).toMatchObject({ num_redelivered: 0 });
  });

  test("whose message holds what no database stores is taken, without that", async () => {
    const sandboxId = await isAllHealthy();
    const cause = { code: "VMM_DIED", message: `said ${"\u0000"}${"x".repeat(10_000)}` };
    const facts = { hostId: HONEST, sandboxId, epoch: 1, opSeq: 1, revision: 1_000 };
    await honest.report(anObservation({ ...facts, state: "stopped", cause }));
    expect((await plane.reaches(sandboxId, "stopped")).error?.message).toMatch(/^said \ufffdxxx/);
  });

  test("that names what is stored of another sandbox as its own copy is rejected", async () => {
    const [sandboxId, other] = [await isAllHealthy(), await isAllHealthy()];
    const facts = { hostId: HONEST, sandboxId, epoch: 1, opSeq: 1, state: "stopped" as const };
    const copy = { ...SNAPSHOT, storeKey: `${other}/1-${"b".repeat(16)}` };
    const cause = { code: "WITH_A_FOREIGN_COPY", message: "x" };
    const foreign = anObservation({ ...facts, revision: 1_000, snapshot: copy, cause });
    await honest.report(foreign);
    honest.heartbeat([foreign]);
    const own = { ...copy, storeKey: `${sandboxId}/1-${"b".repeat(16)}` };
    const later = { code: "WITH_ITS_OWN", message: "x" };
    await honest.report(anObservation({ ...facts, revision: 1_001, snapshot: own, cause: later }));
    await plane.reaches(sandboxId, "stopped");
    const { sql } = plane.database;
    const stopped =
      await sql`SELECT cause->>'code' AS code FROM sandbox_events WHERE sandbox_id = ${sandboxId} AND to_state = 'stopped'`;
    expect(stopped).toEqual([{ code: "WITH_ITS_OWN" }]);
  });

  test("with numbers that nobody gave out is a finding, and applied never", async () => {
    const sandboxId = await isAllHealthy();
    const before = await plane.sandbox(sandboxId);
    const facts = { hostId: HONEST, sandboxId, revision: 1_000, state: "stopped" as const };
    await honest.report(anObservation({ ...facts, epoch: 1, opSeq: 7 }));
    const finding = async () =>
      (await listFindings(plane.database.db, HONEST, 1_000)).find(
        (one) => one.sandboxId === sandboxId,
      );
    await until("a finding", async () => (await finding()) !== undefined);
    expect(await finding()).toMatchObject({ kind: "unknown", message: /backup/ });
    await honest.report(anObservation({ ...facts, epoch: 9, opSeq: 1 }));
    await until("the next", async () => (await finding())?.epoch === 9);
    expect(await plane.sandbox(sandboxId)).toEqual(before);
  });

  test("waits for none of another host that cannot be handled", async () => {
    const { sql } = plane.database;
    await sql.begin(async (held) => {
      // Findings are recorded in the host's history, which this lock holds up.
      await held`SELECT 1 FROM hosts WHERE id = ${STRANGER} FOR UPDATE`;
      for (let sent = 0; sent < 40; sent += 1)
        await report(ownSeen({ sandboxId: numbered("h", sent) }));
      await until("some are at work", async () => (await observations()).num_ack_pending > 16);
      await isAllHealthy();
      expect(await observations()).toMatchObject({ num_redelivered: 0 });
    });
    await until("all are handled", async () => (await observations()).num_ack_pending === 0);
  });

  test("is applied while 10,000 of another host are not through, of which few wait at a time", async () => {
    const ended = new AbortController();
    let stored = 0;
    const flood = Array.from({ length: 100 }, async (_, at) => {
      for (let sent = 0; sent < 100; sent += 1) {
        const seen = ownSeen({ sandboxId: numbered("f", at * 100 + sent) });
        while (!ended.signal.aborted && !(await isStored(seen))) continue;
        stored += 1;
      }
    });
    await until("a part is through", () => stored > 200);
    const sandboxId = await isAllHealthy();
    const through = stored;
    const { state } = await (await plane.bus.manager()).streams.info("OBSERVATIONS");
    ended.abort();
    await Promise.all(flood);
    expect(through).toBeLessThan(10_000);
    expect(state.messages).toBeLessThanOrEqual(STREAMS.OBSERVATIONS.maxMessagesPerSubject + 10);
    expect((await plane.sandbox(sandboxId)).state).toBe("running");
  });

  test("of more sandboxes than anybody will look at is noted up to a number", async () => {
    for (let sent = 0; sent < 1_100; sent += 1)
      await until("it is taken", () => isStored(ownSeen({ sandboxId: numbered("x", sent) })));
    await isAllHealthy();
    const [row] = await plane.database
      .sql`SELECT count(*)::int AS findings FROM host_findings WHERE host_id = ${STRANGER}`;
    // Findings that are recorded at the same moment do not see each other.
    expect(row?.["findings"]).toBeGreaterThanOrEqual(1_000);
    expect(row?.["findings"]).toBeLessThan(1_050);
  });
});

describe("a question", () => {
  test("about the operation of another's sandbox changes nothing there", async () => {
    const sandboxId = await isAllHealthy();
    const mine = `op_${"7".repeat(32)}`;
    const { organizationId, sql } = plane.database;
    await sql`INSERT INTO operations
      (id, sandbox_id, organization_id, kind, status, requested_by, deadline_at, host_id, epoch, op_seq, started_at)
      SELECT ${mine}, id, ${organizationId}, 'pause', 'executing', 'test', now() + interval '1 hour', ${STRANGER}, 1, 2, now()
      FROM sandboxes WHERE id = ${await isAllHealthy()}`;
    await sql`UPDATE incarnations SET started_at = NULL WHERE sandbox_id = ${sandboxId}`;
    const facts = { type: "commit", version: 1, hostId: STRANGER, operationId: mine };
    const asked = await ask("commit", { ...facts, sandboxId, epoch: 1, opSeq: 2 });
    expect(asked).toMatchObject({ granted: false, reason: expect.stringContaining("is for host") });
    const [run] = await sql`SELECT started_at FROM incarnations WHERE sandbox_id = ${sandboxId}`;
    expect(run).toEqual({ started_at: null });
    await sql`DELETE FROM operations WHERE id = ${mine}`;
  });

  test("what is garbage names nothing that is needed, whatever sandbox it is asked under", async () => {
    const [mine, theirs] = [await isAllHealthy(), await isAllHealthy()];
    const { sql } = plane.database;
    const store = async (id: string, generation: number) => {
      const key = `${id}/${generation}-bb`;
      await sql`INSERT INTO snapshots
        (sandbox_id, generation, epoch, host_id, store_key, size_bytes, manifest_sha256, guest_synced, driver_fingerprint, dropped_at)
        VALUES (${id}, ${generation}, 1, 'host-1', ${key}, 1, ${`${"b".repeat(63)}${generation}`}, true, 'x', now())`;
      return key;
    };
    const [old, newest] = [await store(theirs, 1), await store(theirs, 2)];
    await store(mine, 9);
    const unheard = `${theirs}/3-bb`;
    const garbage = (sandboxId: string) =>
      ask("garbage", {
        type: "garbage",
        version: 1,
        hostId: STRANGER,
        sandboxes: [{ sandboxId, storeKeys: [old, newest, unheard] }],
      });
    await register();
    expect(await garbage(mine)).toEqual({ deleted: [], storeKeys: [] });
    expect(await garbage(theirs), "what is so for everybody").toEqual({
      deleted: [],
      storeKeys: [old],
    });
    await sql`UPDATE hosts SET state = 'retired' WHERE id = ${STRANGER}`;
    expect(await garbage(theirs), "nor to one that is out").toEqual({ deleted: [], storeKeys: [] });
    await sql`UPDATE hosts SET state = 'ready' WHERE id = ${STRANGER}`;
  });

  test.each([
    "$JS.API.STREAM.DELETE.EVENTS",
    subjects.command(HONEST, "delete"),
    "_INBOX_host-host-1.x",
  ])("that names %s for its answer gets none", async (reply) => {
    const heard: string[] = [];
    plane.bus.connection.subscribe(reply, {
      callback: (_, { subject }) => void heard.push(subject),
    });
    const lease = JSON.stringify({ type: "lease", version: 1, hostId: STRANGER });
    stranger.connection.publish(subjects.request(STRANGER, "lease"), lease, { reply });
    expect(await ask("lease", JSON.parse(lease) as object)).toMatchObject({ granted: true });
    await plane.bus.connection.flush();
    expect(heard).toEqual([]);
    expect(await (await plane.bus.manager()).streams.names().next()).toContain("EVENTS");
  });

  test("that is asked 15,000 times keeps no other host waiting", async () => {
    const lease = JSON.stringify({ type: "lease", version: 1, hostId: STRANGER });
    const reply = `${inboxPrefixOf(STRANGER)}.flood`;
    for (let times = 0; times < 15_000; times += 1)
      stranger.connection.publish(subjects.request(STRANGER, "lease"), lease, { reply });
    await stranger.connection.flush();
    // The honest host's requests are among them: the stranger's wait, or are dropped.
    await isAllHealthy();
    const [row] = await plane.database
      .sql`SELECT state, lease_expires_at > now() AS leased FROM hosts WHERE id = 'host-1'`;
    expect(row).toEqual({ state: "ready", leased: true });
  });
});
