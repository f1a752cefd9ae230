/** Handles heartbeats. Those of many hosts at about the same time are read and written together. */
import type { Heartbeat, Observation, OperationId, SandboxId } from "@torpor/contracts";
import {
  type InventoryComparison,
  type EntryNews,
  findNews,
  type HostHeartbeat,
  type InventoryProgress,
  recordHeartbeats,
  recordComparisons,
  type ReportedEntry,
} from "@torpor/db";
import { Batches } from "@torpor/service";
import type { Deps } from "../deps.ts";
import { progressIn } from "./progress.ts";
import { isReconciled, reconcileInventory } from "./reconcile-inventory.ts";
import { applyInventory } from "./apply-inventory.ts";

/** Nothing waits for a heartbeat, and the next one is seconds away. */
const GATHER_MS = 100;
const MAX_HEARTBEATS = 256;
/** Fewer, because each may contain as many sandboxes as fit into a heartbeat. */
const MAX_INVENTORIES = 32;

/** `goOn` gets the operations that wait for moved sandboxes. */
export function heartbeatHandler(
  deps: Deps,
  goOn: (operationId: OperationId) => Promise<unknown>,
): (heartbeat: Heartbeat) => Promise<void> {
  const { db } = deps;
  const recorded = new Batches<HostHeartbeat, InventoryProgress | undefined>({
    run: async (heartbeats) => {
      const standings = await recordHeartbeats(db, heartbeats);
      const byHost = new Map(standings.map((standing) => [standing.hostId, standing]));
      return heartbeats.map(({ hostId }) => byHost.get(hostId));
    },
    maxItems: MAX_HEARTBEATS,
    triesAlone: true,
    gatherMs: GATHER_MS,
  });
  const compared = new Batches<Heartbeat, ReadonlyMap<SandboxId, EntryNews>>({
    run: async (heartbeats) => {
      const news = await findNews(db, heartbeats.flatMap(entriesOf));
      const byHost = Map.groupBy(news, ({ hostId }) => hostId);
      return heartbeats.map(
        ({ hostId }) => new Map((byHost.get(hostId) ?? []).map((one) => [one.sandboxId, one])),
      );
    },
    maxItems: MAX_INVENTORIES,
    triesAlone: true,
  });
  const concluded = new Batches<InventoryComparison, void>({
    run: async (comparisons) => {
      await recordComparisons(db, comparisons);
      return comparisons.map(() => undefined);
    },
    maxItems: MAX_INVENTORIES,
    triesAlone: true,
  });
  return async (heartbeat) => {
    const standing = await recorded.add(progressIn(heartbeat));
    if (standing === undefined || isReconciled(heartbeat, standing)) return;
    const open = await applyInventory(deps, heartbeat, await compared.add(heartbeat), goOn);
    await concluded.add(await reconcileInventory(deps, heartbeat, standing, open));
  };
}

function entriesOf({ hostId, inventory }: Heartbeat): ReportedEntry[] {
  return inventory.map(({ sandboxId, epoch, opSeq, revision, ...seen }: Observation) => ({
    hostId,
    sandboxId,
    epoch,
    opSeq,
    revision,
    isQuarantined: seen.quarantined === true,
    hasSnapshot: seen.snapshot !== undefined,
  }));
}
