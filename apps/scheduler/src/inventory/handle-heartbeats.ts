/** Heartbeats: what many hosts say at about the same time is read and written together. */
import type { Heartbeat, Observation } from "@torpor/contracts";
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

/** Nobody waits for a beat, and the next one is seconds away. */
const GATHER_MS = 100;
const MAX_BEATS = 256;
/** Of which each may show as many sandboxes as a beat can. */
const MAX_INVENTORIES = 32;

/** `goOn` is given what waits for sandboxes that were moved. */
export function heartbeatHandler(
  deps: Deps,
  goOn: (operationId: string) => Promise<unknown>,
): (beat: Heartbeat) => Promise<void> {
  const { db } = deps;
  const recorded = new Batches<HostHeartbeat, InventoryProgress | undefined>({
    run: async (beats) => {
      const standings = await recordHeartbeats(db, beats);
      const byHost = new Map(standings.map((standing) => [standing.hostId, standing]));
      return beats.map(({ hostId }) => byHost.get(hostId));
    },
    maxItems: MAX_BEATS,
    triesAlone: true,
    gatherMs: GATHER_MS,
  });
  const compared = new Batches<Heartbeat, ReadonlyMap<string, EntryNews>>({
    run: async (beats) => {
      const news = await findNews(db, beats.flatMap(entriesOf));
      const byHost = Map.groupBy(news, ({ hostId }) => hostId);
      return beats.map(
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
  return async (beat) => {
    const standing = await recorded.add(progressIn(beat));
    if (standing === undefined || isReconciled(beat, standing)) return;
    const open = await applyInventory(deps, beat, await compared.add(beat), goOn);
    await concluded.add(await reconcileInventory(deps, beat, standing, open));
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
