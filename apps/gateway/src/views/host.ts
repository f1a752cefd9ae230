import type { HostEventResource, HostResource } from "@torpor/contracts";
import type {
  DrainProgress,
  FindingRow,
  HostEventRow,
  HostRow,
  HostOverview,
  HostTemplates,
} from "@torpor/db";

const MIB = 1024 ** 2;
const timestamp = (date: Date) => date.toISOString();
const optional = (date: Date | null) => (date === null ? null : timestamp(date));

export function hostView({
  host,
  sandboxes,
  findings,
  drain,
  templates,
}: HostOverview): HostResource {
  return {
    ...hostFacts(host),
    sandboxes,
    findings: findings.shown.map(findingView),
    finding_count: findings.count,
    templates: templates.held,
    image_findings: templates.mismatched.map(imageFindingView),
    drain: drainView(drain),
  };
}

type HostDetails = Omit<
  HostResource,
  "sandboxes" | "findings" | "finding_count" | "templates" | "image_findings" | "drain"
>;

function hostFacts(host: HostRow): HostDetails {
  return {
    id: host.id,
    object: "host",
    state: host.state,
    ...(host.stateBeforeLost === null ? {} : { state_before_lost: host.stateBeforeLost }),
    region: host.region,
    labels: host.labels,
    driver: host.driver,
    driver_fingerprint: host.driverFingerprint,
    agent_version: host.agentVersion,
    has_fence: host.hasFence,
    capacity: {
      vcpu: host.vcpuCapacity,
      memory_mb: host.memoryMibCapacity,
      disk_mb: host.diskMibCapacity,
    },
    used: { vcpu: host.vcpuUsed, memory_mb: host.memoryMibUsed, disk_mb: host.diskMibUsed },
    load: host.load,
    lease_expires_at: timestamp(host.leaseExpiresAt),
    last_beat_at: optional(host.lastHeartbeatAt),
    registered_at: timestamp(host.registeredAt),
  };
}

/** A host may report any number of images. */
const MAX_SHOWN = 5;

function imageFindingView({
  template,
  shownSha256s,
}: HostTemplates["mismatched"][number]): HostResource["image_findings"][number] {
  const { name, imageSha256: wanted } = template;
  const shown = shownSha256s.slice(0, MAX_SHOWN);
  const message = `The host has no image ${wanted.slice(0, 12)} of template ${name}, and gets no sandboxes of it; it has ${shown.map((sha256) => sha256.slice(0, 12)).join(", ")}. Install that image there, or have the template name another (PATCH /v1/templates/${name}).`;
  return { template: name, image_sha256: wanted, host_image_sha256s: shown, message };
}

export function findingView(finding: FindingRow): HostResource["findings"][number] {
  return {
    sandbox_id: finding.sandboxId,
    kind: finding.kind,
    message: finding.message,
    epoch: finding.epoch,
    quarantined: finding.quarantined,
    ...(finding.discardRequestedBy === null
      ? {}
      : { discard_requested_by: finding.discardRequestedBy }),
    first_seen_at: timestamp(finding.firstSeenAt),
    last_seen_at: timestamp(finding.lastSeenAt),
  };
}

export function drainView(progress: DrainProgress | undefined): HostResource["drain"] {
  if (progress === undefined) return null;
  const { drain, total, working, failed, failures, bytesDone, bytesTotal, bytesEstimated } =
    progress;
  const { moved = 0, released = 0, returned = 0, gone = 0 } = progress.ended;
  const left = total - moved - released - returned - gone;
  return {
    status: drain.status,
    budget: {
      max_parallel: drain.maxParallel,
      max_mib_per_second: drain.maxBytesPerSecond === null ? null : drain.maxBytesPerSecond / MIB,
      deadline: optional(drain.deadlineAt),
    },
    requested_by: drain.requestedBy,
    started_at: timestamp(drain.startedAt),
    ended_at: optional(drain.endedAt),
    sandboxes: { total, left, moving: working, failed, moved, released, returned, gone },
    bytes: {
      done: bytesDone,
      total: bytesTotal,
      estimated: bytesEstimated,
      per_second: drain.bytesPerSecond === null ? null : Math.round(drain.bytesPerSecond),
    },
    eta_seconds:
      drain.status !== "active" ? null : left === 0 ? 0 : etaSeconds(bytesTotal - bytesDone, drain),
    failures: failures.map(({ sandboxId, error, attempts, retryAt }) => ({
      sandbox_id: sandboxId,
      code: error?.code ?? "",
      message: error?.message ?? "",
      attempts,
      retry_at: optional(retryAt),
    })),
  };
}

/** Below this rate, the end cannot be estimated. */
const LEAST_BYTES_PER_SECOND = 1024;

function etaSeconds(
  bytesLeft: number,
  { bytesPerSecond, maxBytesPerSecond }: DrainProgress["drain"],
): number | null {
  if (bytesPerSecond === null || bytesPerSecond < LEAST_BYTES_PER_SECOND) return null;
  return Math.ceil(
    Math.max(0, bytesLeft) / Math.min(bytesPerSecond, maxBytesPerSecond ?? Infinity),
  );
}

export function hostEventView(event: HostEventRow): HostEventResource {
  return {
    object: "host_event",
    id: event.id,
    host_id: event.hostId,
    fact: event.fact,
    from: event.fromState,
    to: event.toState,
    requested_by: event.requestedBy,
    ...(event.cause === null ? {} : { cause: event.cause }),
    occurred_at: timestamp(event.occurredAt),
  };
}
