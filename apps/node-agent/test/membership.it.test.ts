/**
 * A host's membership in the fleet, over a real bus: its inventory in heartbeats, and its lease.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { handleRequests, connectBus, subscribeCore } from "@torpor/bus";
import {
  decoder,
  Heartbeat,
  type HostId,
  inventoryDigest,
  type LeaseReply,
  LeaseRequest,
  MAX_INVENTORY_PER_HEARTBEAT,
  type Observation,
  patterns,
  RegisterRequest,
  unverifiedSandboxId,
} from "@torpor/contracts";
import { aHost, anObservation, silentLog, startNats, tempDir, until } from "@torpor/testkit";
import { expect, test } from "vitest";
import { bootMs } from "../src/fence/clock.ts";
import { FenceFiles } from "../src/fence/files.ts";
import { FenceLink } from "../src/control/fence-link.ts";
import { heartbeat, isOpen, keepLease, type Membership } from "../src/control/membership.ts";

const HOST_1 = "host-1" as HostId;

const LIMIT_MS = 30_000;
/** Long, so that there is one request only. */
const LEASE_MS = 600_000;
/** Much more than the 10 ms resolution of the boot clock. */
const ANSWER_AFTER_MS = 500;
const idAt = (at: number) => unverifiedSandboxId(`1763309903a${String(at).padStart(7, "0")}`);
const sandboxAt = (at: number, given: Partial<Observation> = {}) =>
  anObservation({
    hostId: HOST_1,
    sandboxId: idAt(at),
    state: "running",
    lastActiveMsAgo: 1,
    ...given,
  });

test("an inventory that takes several beats is one, with one digest, whatever changes while it is sent", async () => {
  await using nats = await startNats(["host-1"]);
  const control = await connectBus({ ...nats.as(), name: "control" });
  const bus = await connectBus({ ...nats.as("host-1"), name: "host-1", hostId: HOST_1 });
  const heartbeats: Heartbeat[] = [];
  subscribeCore<Heartbeat>(control, {
    pattern: patterns.heartbeats,
    queue: "q",
    decode: decoder(Heartbeat),
    handle: async (one) => void heartbeats.push(one),
    log: silentLog(),
  });
  // A heartbeat before the server knows of the subscription is lost.
  await control.connection.flush();
  const count = 2 * MAX_INVENTORY_PER_HEARTBEAT + 1;
  const first = Array.from({ length: count }, (_, at) => sandboxAt(at));
  // After the first heartbeat one sandbox is gone, one has changed, and all were used.
  const used = first.slice(1).map((seen) => ({ ...seen, lastActiveMsAgo: 0 }));
  const then = used.map((seen, at) => (at === count - 2 ? { ...seen, revision: 2 } : seen));
  const inventories = [first];
  const starts = { startsAtOnce: 2, startsRunning: 1, startsWaiting: 3 };
  const look = () => ({ inventory: inventories.shift() ?? then, diskFreeMib: 1, starts });
  const stop = new AbortController();
  const beating = heartbeat(bus, HOST_1, look, { isRegistered: true }, stop.signal);
  try {
    await until("an inventory and the next", () => heartbeats.length > 3, LIMIT_MS);
  } finally {
    stop.abort();
    await beating;
    await Promise.all([bus.close(), control.close()]);
  }
  const parts = heartbeats.slice(0, 3);
  expect(parts.map((one) => one.inventory.length)).toEqual([
    MAX_INVENTORY_PER_HEARTBEAT,
    MAX_INVENTORY_PER_HEARTBEAT,
    1,
  ]);
  const sent = parts.flatMap((one) => one.inventory);
  for (const part of parts)
    expect([part.inventoryCount, part.inventoryDigest]).toEqual([count, inventoryDigest(sent)]);
  expect(inventoryDigest(sent)).toBe(inventoryDigest(first));
  expect(sent[MAX_INVENTORY_PER_HEARTBEAT], "what has no revision is as it is now").toMatchObject({
    lastActiveMsAgo: 0,
  });
  const next = { inventoryCount: count - 1, inventoryDigest: inventoryDigest(then) };
  expect(heartbeats[3]).toMatchObject(next);
});

test("a lease counts from before it was asked for, however late the answer comes", async () => {
  await using nats = await startNats(["host-1"]);
  await using dir = await tempDir();
  const control = await connectBus({ ...nats.as(), name: "control" });
  const bus = await connectBus({ ...nats.as("host-1"), name: "host-1", hostId: HOST_1 });
  const grants: number[] = [];
  const stopAnswering = handleRequests(control, {
    pattern: patterns.requests("register"),
    queue: "q",
    decode: decoder(RegisterRequest),
    handle: async (): Promise<LeaseReply> => {
      grants.push(bootMs());
      await sleep(ANSWER_AFTER_MS);
      return { granted: true, leaseMs: LEASE_MS };
    },
    log: silentLog(),
  });
  const files = new FenceFiles(dir.path);
  const link = new FenceLink(files);
  await link.open();
  const stop = new AbortController();
  const membership = { isRegistered: false };
  const keeping = keepLease(bus, aHost("host-1"), membership, link, stop.signal, silentLog());
  try {
    const lease = await until("the lease is written down", () => files.readLease(), LIMIT_MS);
    const [grantedAtBootMs = 0] = grants;
    expect(grants).toHaveLength(1);
    const isSafe = "it ends no later than the control plane's";
    expect(lease.untilBootMs, isSafe).toBeLessThanOrEqual(grantedAtBootMs + LEASE_MS);
    await until("it is open", () => (isOpen(membership, link) ? true : undefined), LIMIT_MS);
    expect(isOpen({ ...membership, isClosed: true }, link)).toBe(false);
    const isOver = { leaseRuns: () => false };
    expect(isOpen(membership, isOver), "registered, and it hears nothing").toBe(false);
  } finally {
    stop.abort();
    await keeping;
    await stopAnswering();
    await Promise.all([bus.close(), control.close()]);
  }
});

test("heartbeats report what the newest answer to a lease wants, and everything after a registration", async () => {
  await using nats = await startNats(["host-1"]);
  await using dir = await tempDir();
  const control = await connectBus({ ...nats.as(), name: "control" });
  const bus = await connectBus({ ...nats.as("host-1"), name: "host-1", hostId: HOST_1 });
  const handlers = { queue: "q", log: silentLog() };
  const granted = { granted: true, leaseMs: 300 };
  const wanted = { reconciledInventory: "digest", showSandboxes: [idAt(1)], getsNoSandboxes: true };
  let isLost = false;
  const stops = [
    handleRequests(control, {
      ...handlers,
      pattern: patterns.requests("register"),
      decode: decoder(RegisterRequest),
      handle: async (): Promise<LeaseReply> => granted,
    }),
    handleRequests(control, {
      ...handlers,
      pattern: patterns.requests("lease"),
      decode: decoder(LeaseRequest),
      handle: async (): Promise<LeaseReply> =>
        isLost ? { granted: false, leaseMs: 0 } : { ...granted, ...wanted },
    }),
  ];
  const link = new FenceLink(new FenceFiles(dir.path));
  await link.open();
  const stop = new AbortController();
  const membership: Membership = { isRegistered: false };
  const keeping = keepLease(bus, aHost("host-1"), membership, link, stop.signal, silentLog());
  try {
    await until("it is wanted", () => membership.wanted?.reconciled === "digest", LIMIT_MS);
    expect(membership).toMatchObject({
      wanted: { reconciled: "digest", show: [idAt(1)] },
      isClosed: true,
    });
    isLost = true;
    await until("everything is", () => membership.wanted?.reconciled === undefined, LIMIT_MS);
    expect(membership).toMatchObject({
      wanted: { reconciled: undefined, show: [] },
      isClosed: false,
    });
  } finally {
    stop.abort();
    await keeping;
    await Promise.all(stops.map((end) => end()));
    await Promise.all([bus.close(), control.close()]);
  }
});
