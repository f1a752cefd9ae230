/**
 * Reports of sandboxes in heartbeats: everything, or the changes since the inventory that the
 * control plane knows.
 */
import {
  type Heartbeat,
  type HostId,
  inventoryDigest,
  MAX_ACTIVITY_PER_HEARTBEAT,
  MAX_INVENTORY_PER_HEARTBEAT,
  type Observation,
  type OperationId,
  type SandboxId,
  unverifiedSandboxId,
} from "@torpor/contracts";
import { anObservation } from "@torpor/testkit";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { InventoryReport, progressOf } from "../src/control/inventory-report.ts";

const idAt = (at: number) => unverifiedSandboxId(`1763309903a${String(at).padStart(7, "0")}`);
const at = (index: number, given: Partial<Observation> = {}) =>
  anObservation({ hostId: "host-1" as HostId, sandboxId: idAt(index), state: "paused", ...given });
const many = (count: number) => Array.from({ length: count }, (_, index) => at(index));
const wanted = (reconciled?: string, show: SandboxId[] = []) => ({ reconciled, show });
const ids = (inventory: Observation[]) => inventory.map(({ sandboxId }) => sandboxId);

test("everything, as long as the control plane has reconciled nothing, or something that is not known here", () => {
  const report = new InventoryReport();
  const inventory = many(2);
  const whole = { inventory, inventoryCount: 2, inventoryDigest: inventoryDigest(inventory) };
  expect(report.next(inventory, wanted())).toEqual(whole);
  expect(report.next(inventory, wanted("of another time"))).toEqual(whole);
});

test("nothing of what is as it was, what has changed or come, and what has gone", () => {
  const report = new InventoryReport();
  const before = many(4);
  const { inventoryDigest: reconciled } = report.next(before, wanted());
  const unchanged = { inventory: [], inventoryCount: 4, inventoryDigest: reconciled };
  expect(report.next(before, wanted(reconciled))).toEqual({
    ...unchanged,
    inventorySince: reconciled,
  });
  const [same, changed] = [at(0, { lastActiveMsAgo: 1 }), at(1, { revision: 2 })];
  const come = at(9);
  const now = [same, changed, at(3), come];
  expect(report.next(now, wanted(reconciled))).toEqual({
    inventory: [changed, come],
    inventoryCount: 4,
    inventoryDigest: inventoryDigest(now),
    inventorySince: reconciled,
    gone: [idAt(2)],
  });
});

test("what is asked for, changed or not, there or not", () => {
  const report = new InventoryReport();
  const inventory = many(3);
  const { inventoryDigest: reconciled } = report.next(inventory, wanted());
  const shown = report.next(inventory, wanted(reconciled, [idAt(1), idAt(7)]));
  expect([ids(shown.inventory), shown.gone]).toEqual([[idAt(1)], [idAt(7)]]);
});

test("everything again, in parts, when more has changed than a heartbeat takes", () => {
  const report = new InventoryReport();
  const before = many(MAX_INVENTORY_PER_HEARTBEAT + 1);
  report.next(before, wanted());
  const { inventoryDigest: reconciled } = report.next(before, wanted());
  expect(report.next(before, wanted(reconciled)).inventory).toEqual([]);
  const now = before.map((seen) => ({ ...seen, revision: 2 }));
  const parts = [0, 1].map(() => report.next(now, wanted(reconciled)));
  expect(parts.map(({ inventory, inventorySince }) => [inventory.length, inventorySince])).toEqual([
    [MAX_INVENTORY_PER_HEARTBEAT, undefined],
    [1, undefined],
  ]);
});

test("changes since an inventory that was sent in parts while others came: the digest of those is remembered", () => {
  const report = new InventoryReport();
  const before = many(MAX_INVENTORY_PER_HEARTBEAT + 1);
  const { inventoryDigest: sent } = report.next(before, wanted());
  const now = [...before, at(900)];
  expect(report.next(now, wanted()).inventoryDigest).toBe(sent);
  expect(ids(report.next(now, wanted(sent)).inventory)).toEqual([idAt(900)]);
});

describe("whoever keeps what is reported", () => {
  const step = fc.record({
    changed: fc.array(fc.nat(9), { maxLength: 4 }),
    removed: fc.array(fc.nat(9), { maxLength: 3 }),
    isHeard: fc.boolean(),
    isReconciled: fc.boolean(),
    show: fc.array(fc.nat(9), { maxLength: 2 }),
  });

  test("has the host's inventory with each beat that it hears, whichever it has reconciled before", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const report = new InventoryReport();
        const here = new Map<SandboxId, Observation>();
        const kept = new Map<string, Map<SandboxId, Observation>>();
        let reconciled: string | undefined;
        let revision = 0;
        for (const { changed, removed, isHeard, isReconciled, show } of steps) {
          for (const index of changed) {
            revision += 1;
            here.set(idAt(index), at(index, { revision }));
          }
          for (const index of removed) here.delete(idAt(index));
          const heartbeat = report.next([...here.values()], wanted(reconciled, show.map(idAt)));
          if (!isHeard) continue;
          const heard = applied(kept, heartbeat);
          expect(inventoryDigest([...heard.values()])).toBe(heartbeat.inventoryDigest);
          expect(heard).toEqual(here);
          kept.set(heartbeat.inventoryDigest, heard);
          if (isReconciled) reconciled = heartbeat.inventoryDigest;
        }
      }),
    );
  });

  type Reported = Pick<Heartbeat, "inventory" | "inventorySince" | "gone">;

  function applied(
    kept: ReadonlyMap<string, Map<SandboxId, Observation>>,
    { inventory, inventorySince, gone = [] }: Reported,
  ): Map<SandboxId, Observation> {
    const base = inventorySince === undefined ? new Map() : kept.get(inventorySince);
    if (base === undefined) throw new Error("changes since what nobody has");
    const now = new Map<SandboxId, Observation>(base);
    for (const seen of inventory) now.set(seen.sandboxId, seen);
    for (const sandboxId of gone) now.delete(sandboxId);
    return now;
  }
});

describe("what changes all the time", () => {
  test("is a use of a few seconds ago, and how far copies are", () => {
    const [used, unused] = [at(0, { lastActiveMsAgo: 7_000 }), at(1, { lastActiveMsAgo: 60_000 })];
    const copy = { bytesDone: 1, bytesTotal: 2 };
    const [copied, fetched] = [
      at(2, { replicating: copy }),
      at(3, { fetching: copy, busyWith: "op" as OperationId }),
    ];
    expect(progressOf([used, unused, copied, fetched], 0)).toEqual({
      activity: [{ sandboxId: idAt(0), epoch: 1, lastActiveMsAgo: 7_000 }],
      replicating: [{ sandboxId: idAt(2), ...copy }],
      fetching: [{ operationId: "op", ...copy }],
    });
    expect(progressOf([unused], 0)).toEqual({});
  });

  test("is said in turns where more are in use than fit", () => {
    const used = many(MAX_ACTIVITY_PER_HEARTBEAT + 5).map((seen) => ({
      ...seen,
      lastActiveMsAgo: 0,
    }));
    const turns = [0, 1, 2].map((turn) => progressOf(used, turn).activity?.length);
    expect(turns).toEqual([MAX_ACTIVITY_PER_HEARTBEAT, 5, MAX_ACTIVITY_PER_HEARTBEAT]);
  });
});
