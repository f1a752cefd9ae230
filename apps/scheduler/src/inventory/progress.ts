/**
 * The parts of a heartbeat beside its inventory. A host of an earlier version reports them with
 * each sandbox of the inventory.
 */
import type { Heartbeat, Observation } from "@torpor/contracts";
import type { HostHeartbeat, SeenActivity, SeenFetch, SeenReplication } from "@torpor/db";

export function progressIn(heartbeat: Heartbeat): HostHeartbeat {
  const { hostId, load, inventory, activity = [], replicating = [], fetching = [] } = heartbeat;
  return {
    hostId,
    load,
    activity: [...activity, ...inventory.flatMap(activityIn)],
    replication: [...replicating, ...inventory.flatMap(replicationIn)],
    fetches: [...fetching, ...inventory.flatMap(fetchIn)],
  };
}

function activityIn({ sandboxId, epoch, lastActiveMsAgo }: Observation): SeenActivity[] {
  return lastActiveMsAgo === undefined ? [] : [{ sandboxId, epoch, lastActiveMsAgo }];
}

function replicationIn({ sandboxId, replicating }: Observation): SeenReplication[] {
  return replicating === undefined ? [] : [{ sandboxId, ...replicating }];
}

function fetchIn({ busyWith, fetching }: Observation): SeenFetch[] {
  return busyWith === undefined || fetching === undefined
    ? []
    : [{ operationId: busyWith, ...fetching }];
}
