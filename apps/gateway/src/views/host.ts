import type { HostRow } from "@torpor/db";
import type { HostResource } from "../schemas.ts";

export function hostView(host: HostRow): HostResource {
  return {
    id: host.id,
    object: "host",
    state: host.state,
    region: host.region,
    labels: host.labels,
    driver: host.driver,
    driver_fingerprint: host.driverFingerprint,
    agent_version: host.agentVersion,
    has_fence: host.hasFence,
    capacity: { vcpu: host.vcpuCapacity, memory_mb: host.memoryMibCapacity, disk_mb: host.diskMibCapacity },
    used: { vcpu: host.vcpuUsed, memory_mb: host.memoryMibUsed, disk_mb: host.diskMibUsed },
    load: host.load,
    lease_expires_at: host.leaseExpiresAt.toISOString(),
    last_beat_at: host.lastBeatAt?.toISOString() ?? null,
  };
}
