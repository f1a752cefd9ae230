/**
 * Checks, before a drain begins, whether every sandbox on the host could be placed on another one.
 * The placement rules decide over hosts as if they were empty: hosts may be full only for now.
 */
import type { HostId } from "@torpor/contracts";
import {
  readSnapshot,
  type Database,
  type HostRow,
  listHostsOfKey,
  listPlacementHosts,
  listSandboxNeeds,
  type SandboxNeed,
} from "@torpor/db";
import { FleetView, place, type PlacementHost, requestFor } from "@torpor/placement";

export interface Unplaceable {
  sandboxes: number;
  image_sha256: string;
  region: string;
  /** Other hosts with a running lease. */
  hosts: number;
  /** Number of those hosts that cannot take the sandboxes, by reason (docs/placement.md). */
  reasons: Record<string, number>;
  message: string;
}

/** With the hosts that its anti-affinity key excludes. */
export type Need = SandboxNeed & { occupiedHostIds: HostId[] };

export async function findUnplaceable(db: Database, host: HostRow): Promise<Unplaceable[]> {
  const { others, needs } = await readSnapshot(db, async (tx) => {
    const others = await listPlacementHosts(tx);
    const needs: Need[] = [];
    for (const need of await listSandboxNeeds(tx, host.id))
      needs.push({ ...need, occupiedHostIds: await listHostsOfKey(tx, need) });
    return { others, needs };
  });
  return unplaceableFrom(host, needs, others);
}

/** The needs that no other host meets. `others`: hosts with a running lease. */
export function unplaceableFrom(
  host: Pick<HostRow, "id" | "driverFingerprint">,
  needs: Need[],
  others: readonly PlacementHost[],
): Unplaceable[] {
  const empty = others
    .filter(({ id }) => id !== host.id)
    .map((other) => ({ ...other, vcpuUsed: 0, memoryMibUsed: 0, diskMibUsed: 0 }));
  const fleet = new FleetView(empty);
  return needs.flatMap((need) => {
    // A running sandbox is resumed from a snapshot that this host will write.
    const driverFingerprint = need.runs
      ? host.driverFingerprint
      : (need.snapshotFingerprint ?? undefined);
    const placement = place(
      fleet,
      { ...requestFor(need, need.occupiedHostIds), driverFingerprint },
      "local-first",
    );
    if (placement.kind === "placed") return [];
    const { imageSha256: image_sha256, region, count: sandboxes } = need;
    const what = `${sandboxes} ${sandboxes === 1 ? "sandbox has" : "sandboxes have"} nowhere to go`;
    const why =
      empty.length === 0 ? "There is no other host with a running lease." : placement.message;
    const { hosts, reasons } = placement;
    return [
      {
        sandboxes,
        image_sha256,
        region,
        hosts,
        reasons,
        message: `${what}, were the others empty. ${why}`,
      },
    ];
  });
}
