/** What a host's heartbeats say of its inventory, over a real bus. */
import { connectBus, inboxPrefixOf, subscribeCore } from "@torpor/bus";
import { decoder, Heartbeat, inventoryDigest, MAX_INVENTORY_PER_BEAT, type Observation, patterns } from "@torpor/contracts";
import { anObservation, silentLog, startNats, until } from "@torpor/testkit";
import { expect, test } from "vitest";
import { beat } from "../src/shell/membership.ts";

const LIMIT_MS = 30_000;
const idAt = (at: number) => `1763309903a${String(at).padStart(7, "0")}`;
const sandboxAt = (at: number, given: Partial<Observation> = {}) =>
  anObservation({ hostId: "host-1", sandboxId: idAt(at), state: "running", lastActiveMsAgo: 1, ...given });

test("an inventory that takes several beats is one, with one digest, whatever changes while it is sent", async () => {
  await using nats = await startNats(["host-1"]);
  const control = await connectBus({ ...nats.as(), name: "control" });
  const bus = await connectBus({ ...nats.as("host-1"), name: "host-1", inboxPrefix: inboxPrefixOf("host-1") });
  const beats: Heartbeat[] = [];
  subscribeCore<Heartbeat>(control, {
    pattern: patterns.beats,
    queue: "q",
    decode: decoder(Heartbeat),
    handle: async (one) => void beats.push(one),
    log: silentLog(),
  });
  const count = 2 * MAX_INVENTORY_PER_BEAT + 1;
  const first = Array.from({ length: count }, (_, at) => sandboxAt(at));
  let inventory = first;
  const stop = new AbortController();
  const beating = beat(bus, "host-1", () => ({ inventory, diskFreeMib: 1 }), stop.signal);
  try {
    await until("the first beat", () => beats.length > 0, LIMIT_MS);
    // One is gone, one has moved on, and all were used.
    inventory = first.slice(1).map((seen, at) => ({ ...seen, lastActiveMsAgo: 0, ...(at === count - 2 ? { revision: 2 } : {}) }));
    await until("an inventory and the next", () => beats.length > 3, LIMIT_MS);
  } finally {
    stop.abort();
    await beating;
    await Promise.all([bus.close(), control.close()]);
  }
  const parts = beats.slice(0, 3);
  expect(parts.map((one) => one.inventory.length)).toEqual([MAX_INVENTORY_PER_BEAT, MAX_INVENTORY_PER_BEAT, 1]);
  const sent = parts.flatMap((one) => one.inventory);
  for (const part of parts) expect([part.inventoryCount, part.inventoryDigest]).toEqual([count, inventoryDigest(sent)]);
  expect(inventoryDigest(sent)).toBe(inventoryDigest(first));
  expect(sent[MAX_INVENTORY_PER_BEAT], "what has no revision is as it is now").toMatchObject({ lastActiveMsAgo: 0 });
  expect(beats[3]).toMatchObject({ inventoryCount: count - 1, inventoryDigest: inventoryDigest(inventory) });
});
