/**
 * Hosts that report changes, and the requests that they get, until host and database agree on
 * everything.
 */
import assert from "node:assert/strict";
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
  findHost,
  listFindings,
  recordHeartbeats,
  recordComparisons,
  renewLease,
  type SandboxRow,
} from "@torpor/db";
import {
  aHeartbeat,
  anObservation,
  makeSandbox,
  type Databases,
  sharedPostgres,
} from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { handleLease } from "../src/hosts/handle-host-requests.ts";
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

/**
 * A host that reports changes, as the agent does: since the inventory that the last lease reply
 * named.
 */
class Host {
  readonly id: HostId;
  private readonly has = new Map<SandboxId, Observation>();
  /** Inventories by digest. */
  private readonly sent = new Map<string, Map<SandboxId, Observation>>();
  private wanted: {
    reconciledInventory?: string | undefined;
    showSandboxes?: SandboxId[] | undefined;
  } = {};

  private constructor(id: HostId) {
    this.id = id;
  }

  static async join(): Promise<Host> {
    hosts += 1;
    const id = unverifiedHostId(`host-${hosts}`);
    await scheduler.join(id, ROOM);
    return new Host(id);
  }

  /** A host with a sandbox in each of `states`, on all of which host and database agree. */
  static async agreed(
    ...states: ("running" | "paused")[]
  ): Promise<{ host: Host; sandboxes: SandboxRow[] }> {
    const host = await Host.join();
    const sandboxes: SandboxRow[] = [];
    for (const state of states) {
      const sandbox = await makeSandbox(scheduler.database, state, { hostId: host.id });
      host.shows(sandbox.id, { state, ...(state === "paused" ? { snapshot: SNAPSHOT } : {}) });
      sandboxes.push(sandbox);
    }
    await host.heartbeat();
    await host.askLease();
    assert.deepEqual(host.wanted, { reconciledInventory: host.digest, showSandboxes: undefined });
    return { host, sandboxes };
  }

  get all(): Observation[] {
    return [...this.has.values()];
  }

  get digest(): string {
    return inventoryDigest(this.all);
  }

  shows(sandboxId: SandboxId, given: Partial<Observation> = {}): void {
    this.has.set(
      sandboxId,
      anObservation({ hostId: this.id, sandboxId, state: "running", ...given }),
    );
  }

  loses(sandboxId: SandboxId): void {
    this.has.delete(sandboxId);
  }

  async askLease(): Promise<SandboxId[]> {
    const request = { type: "lease", version: 1, hostId: this.id } as const;
    const { granted, reconciledInventory, showSandboxes } = await handleLease(
      scheduler.deps,
      this.id,
      request,
    );
    assert(granted);
    this.wanted = { reconciledInventory, showSandboxes };
    return showSandboxes ?? [];
  }

  /** Reports everything, as a host of an earlier version does. */
  async allHeartbeats(): Promise<void> {
    this.wanted = {};
    await this.heartbeat();
  }

  /** Returns true if the heartbeat contained only changes. */
  async heartbeat(given: Partial<Heartbeat> = {}): Promise<boolean> {
    const { inventory, ...fields } = this.report();
    const load = { vms: 0, residentBytes: 0, diskFreeMib: 0 };
    const facts = {
      type: "heartbeat",
      version: 1,
      hostId: this.id,
      agentStartedAt: "",
      load,
    } as const;
    await hear({ ...facts, inventory, ...fields, ...given });
    return fields.inventorySince !== undefined;
  }

  private report(): Pick<
    Heartbeat,
    "inventory" | "inventoryCount" | "inventoryDigest" | "inventorySince" | "gone"
  > {
    const { reconciledInventory: since = "", showSandboxes = [] } = this.wanted;
    const whole = { inventoryCount: this.has.size, inventoryDigest: this.digest };
    const base = this.sent.get(since);
    this.sent.set(this.digest, new Map(this.has));
    if (base === undefined) return { ...whole, inventory: this.all };
    const isNews = (seen: Observation) =>
      showSandboxes.includes(seen.sandboxId) || base.get(seen.sandboxId) !== seen;
    const gone = [...new Set([...base.keys(), ...showSandboxes])].filter((id) => !this.has.has(id));
    return { ...whole, inventory: this.all.filter(isNews), inventorySince: since, gone };
  }

  /** Requests the lease and sends a heartbeat in turn, as time passes. */
  async turns(count: number): Promise<void> {
    for (let turn = 0; turn < count; turn += 1) {
      await this.askLease();
      await this.heartbeat();
      await scheduler.database
        .sql`UPDATE host_findings SET first_seen_at = first_seen_at - interval '6 seconds' WHERE host_id = ${this.id}`;
    }
  }

  async findings(): Promise<{ sandboxId: string; kind: string }[]> {
    return (await listFindings(scheduler.database.db, this.id, 100)).map(({ sandboxId, kind }) => ({
      sandboxId,
      kind,
    }));
  }

  async agrees(): Promise<boolean> {
    const checks = await scheduler.database
      .sql`SELECT sandbox_id FROM host_checks WHERE host_id = ${this.id}`;
    return (
      checks.length === 0 &&
      (await findHost(scheduler.database.db, this.id))?.reconciledInventory === this.digest
    );
  }
}

const idOf = (sandbox: SandboxRow | undefined) => sandbox?.id ?? unverifiedSandboxId("");
const hear = async (heartbeat: Heartbeat) =>
  await heartbeatHandler(scheduler.deps, async () => {})(heartbeat);
const told = async (sandboxId: SandboxId, kind: string) =>
  (await scheduler.commands({ sandboxId, kind })).length;
const sql = (text: TemplateStringsArray, ...values: (string | null)[]) =>
  scheduler.database.sql(text, ...values);

/** Puts a sandbox on a host without recording a check: only a comparison of everything finds it. */
async function smuggle(hostId: HostId): Promise<SandboxId> {
  const { id } = await makeSandbox(scheduler.database, "paused", { hostId });
  await sql`DELETE FROM host_checks WHERE sandbox_id = ${id}`;
  return id;
}

describe("what is the same as what was compared", () => {
  test("RI4: is not compared again, whether the host reports everything or nothing, until a whole inventory is due", async () => {
    const { host } = await Host.agreed("running", "paused");
    const smuggled = await smuggle(host.id);
    await host.turns(4);
    await host.allHeartbeats();
    expect(await host.findings()).toEqual([]);
    await sql`UPDATE hosts SET reconciled_until = now() WHERE id = ${host.id}`;
    await host.askLease();
    expect(await host.heartbeat(), "everything was wanted").toBe(false);
    await host.turns(3);
    expect(await host.findings()).toEqual([{ sandboxId: smuggled, kind: "missing" }]);
  });

  test("is compared again when the host has registered, and when it was lost", async () => {
    for (const event of ["register", "loss"]) {
      const { host } = await Host.agreed("running");
      const smuggled = await smuggle(host.id);
      if (event === "register") await scheduler.join(host.id, ROOM);
      else
        await sql`UPDATE hosts SET state = 'lost', state_before_lost = 'ready' WHERE id = ${host.id}`;
      await host.turns(4);
      expect(await host.findings(), event).toEqual([{ sandboxId: smuggled, kind: "missing" }]);
    }
  });
});

describe("what a host reports to have changed", () => {
  test("is settled, and is then what further changes are told since", async () => {
    const { host, sandboxes } = await Host.agreed("running", "running");
    const [stopped] = sandboxes;
    host.shows(idOf(stopped), { state: "stopped", revision: 2 });
    expect(await host.heartbeat()).toBe(true);
    expect((await scheduler.sandbox(idOf(stopped))).state).toBe("stopped");
    expect(await host.agrees()).toBe(true);
  });

  test("does not put off that a whole inventory is due", async () => {
    const { host, sandboxes } = await Host.agreed("running");
    const until = (await findHost(scheduler.database.db, host.id))?.reconciledUntil;
    host.shows(idOf(sandboxes[0]), { revision: 2 });
    await host.turns(1);
    expect(await host.agrees()).toBe(true);
    expect((await findHost(scheduler.database.db, host.id))?.reconciledUntil).toEqual(until);
  });

  test("since an inventory that is not the reconciled one is settled, and concludes nothing", async () => {
    const { host, sandboxes } = await Host.agreed("running");
    const reconciled = host.digest;
    host.shows(idOf(sandboxes[0]), { state: "stopped", revision: 2 });
    await host.heartbeat({ inventorySince: "another" });
    expect((await scheduler.sandbox(idOf(sandboxes[0]))).state).toBe("stopped");
    expect((await findHost(scheduler.database.db, host.id))?.reconciledInventory).toBe(reconciled);
  });

  test("an observation that says nothing new is not looked at again", async () => {
    const { host, sandboxes } = await Host.agreed("running");
    host.shows(idOf(sandboxes[0]), { revision: 7 });
    await host.turns(1);
    expect(await host.askLease(), "nothing to ask about").toEqual([]);
    expect(await host.agrees()).toBe(true);
  });

  test("a sandbox that nobody knows stays a finding while it is there, though nothing changes any more", async () => {
    const { host } = await Host.agreed("running");
    const sandboxId = newSandboxId();
    host.shows(sandboxId);
    await host.turns(3);
    expect(await host.findings()).toEqual([{ sandboxId, kind: "unknown" }]);
    expect(await told(sandboxId, "quarantine")).toBe(1);
    const aged = () =>
      sql`UPDATE host_findings SET last_seen_at = last_seen_at - interval '1 minute' WHERE host_id = ${host.id}`;
    await aged();
    await host.turns(1);
    expect(await host.findings(), "it was shown again").toHaveLength(1);
    host.loses(sandboxId);
    await aged();
    await host.turns(2);
    expect(await host.findings()).toEqual([]);
    expect(await host.agrees()).toBe(true);
  });
});

describe("a sandbox that comes to a host, or leaves it, by what the database says", () => {
  test("HB2: is asked for until the host shows it", async () => {
    const { host } = await Host.agreed("paused");
    const { id } = await makeSandbox(scheduler.database, "running", { hostId: host.id });
    expect(await host.askLease()).toEqual([id]);
    host.shows(id);
    await host.heartbeat();
    expect(await host.askLease()).toEqual([]);
    expect(await host.agrees()).toBe(true);
  });

  test("is missing when the host never shows it: what was compared before it came says nothing of it", async () => {
    const { host } = await Host.agreed("paused");
    const { id: operationId, sandboxId } = await scheduler.beginCreate({ region: "local" });
    await sql`UPDATE sandboxes SET host_id = ${host.id} WHERE id = ${sandboxId}`;
    await host.turns(3);
    expect(await host.findings(), "it is being created").toEqual([]);
    await sql`UPDATE operations SET status = 'succeeded', ended_at = now() WHERE id = ${operationId}`;
    await sql`UPDATE sandboxes SET state = 'running', settled_state = 'running' WHERE id = ${sandboxId}`;
    await host.turns(4);
    expect(await host.findings()).toEqual([{ sandboxId, kind: "missing" }]);
    host.shows(sandboxId, { revision: 3 });
    await host.turns(2);
    expect(await host.findings()).toEqual([]);
    expect(await host.agrees()).toBe(true);
  });

  test("is discarded where it was, once a newer run is proven, though that host has nothing new to report", async () => {
    const { host, sandboxes } = await Host.agreed("paused");
    const [id, other] = [idOf(sandboxes[0]), await Host.join()];
    await sql`UPDATE sandboxes SET host_id = ${other.id}, epoch = 2, op_seq = 2, state = 'running', settled_state = 'running' WHERE id = ${id}`;
    await host.turns(2);
    expect(await told(id, "discard"), "the newer run is not proven").toBe(0);
    await sql`INSERT INTO incarnations (sandbox_id, epoch, host_id, started_at) VALUES (${id}, 2, ${other.id}, now())`;
    await host.turns(1);
    expect(await scheduler.commands({ sandboxId: id, kind: "discard" })).toMatchObject([
      { hostId: host.id },
    ]);
    host.loses(id);
    await host.turns(1);
    expect(await host.agrees()).toBe(true);
  });

  test("HB3: that comes back while it is being compared is compared again", async () => {
    const { host, sandboxes } = await Host.agreed("paused");
    const { id: sandboxId } = sandboxes[0] ?? { id: "" };
    const { db } = scheduler.database;
    const moves = async (hostId: string | null) =>
      await sql`UPDATE sandboxes SET host_id = ${hostId}, generation = generation + 1 WHERE id = ${sandboxId}`;
    await moves(null);
    const [standing] = await recordHeartbeats(db, [aHeartbeat(host.id)]);
    expect(standing?.checks).toMatchObject([{ sandboxId }]);
    await moves(host.id);
    const facts = { hostId: host.id, digest: undefined, since: undefined, open: [] };
    await recordComparisons(db, [{ ...facts, ended: standing?.checks ?? [] }]);
    expect(await host.askLease()).toEqual([sandboxId]);
  });
});

test("a host with more to be asked about than a beat holds reports everything, and is believed as before", async () => {
  const { host } = await Host.agreed("running");
  await sql`INSERT INTO host_checks (host_id, sandbox_id) SELECT ${host.id}, '176330990' || lpad(at::text, 9, '0') FROM generate_series(1, 300) at`;
  expect(await host.askLease()).toEqual([]);
  expect(await host.heartbeat(), "everything").toBe(false);
  await host.turns(2);
  expect(await host.agrees()).toBe(true);
});

test("a host that lies about its inventory keeps what it has from being seen, and nothing else", async () => {
  const [{ host: liar, sandboxes }, { host: honest }] = [
    await Host.agreed("running"),
    await Host.agreed("running"),
  ];
  const id = idOf(sandboxes[0]);
  liar.shows(id, { state: "stopped", revision: 2 });
  await liar.heartbeat({
    inventorySince: liar.digest,
    inventory: [],
    inventoryDigest: honest.digest,
    gone: [],
  });
  expect(await honest.agrees()).toBe(true);
  expect((await scheduler.sandbox(id)).state).toBe("running");
  await scheduler.apply(
    anObservation({ hostId: liar.id, sandboxId: id, state: "stopped", revision: 2 }),
  );
  expect((await scheduler.sandbox(id)).state, "what it says itself is heard").toBe("stopped");
});

test("a renewal of a lost host asks for everything", async () => {
  const { host } = await Host.agreed("running");
  await sql`UPDATE hosts SET state = 'lost', state_before_lost = 'cordoned' WHERE id = ${host.id}`;
  expect(await renewLease(scheduler.database.db, host.id, 9_000, false)).toEqual({ granted: true });
  expect(await findHost(scheduler.database.db, host.id)).toMatchObject({
    state: "cordoned",
    reconciledInventory: null,
  });
});

test("a host that gets no new sandboxes is told so with its lease", async () => {
  const { id } = await Host.join();
  const ask = () =>
    handleLease(scheduler.deps, id, { type: "lease", version: 1, hostId: id } as const);
  expect(await ask()).not.toHaveProperty("getsNoSandboxes");
  await sql`UPDATE hosts SET state = 'cordoned' WHERE id = ${id}`;
  expect(await ask()).toMatchObject({ granted: true, getsNoSandboxes: true });
});
