/**
 * Rows as the wire contract shows them. Optional fields are left out rather than null: Python
 * models reject null there.
 */
import type { EventResource, OperationResource, SandboxResource } from "@torpor/contracts";
import type { EventRow, OperationRow, SandboxView } from "@torpor/db";
import { isTombstoned } from "@torpor/state-machine";
import type { Edge } from "../edge/edge.ts";

const timestamp = (date: Date) => date.toISOString();

export function sandboxView(
  view: SandboxView,
  edge: Pick<Edge, "publicHost">,
): Omit<SandboxResource, "request_id"> {
  const { sandbox, host, operation } = view;
  const url = edge.publicHost(sandbox);
  return {
    id: sandbox.id,
    object: "sandbox",
    status: isTombstoned(sandbox.state) ? "deleted" : sandbox.settledState,
    public_host: url,
    direct_url: url,
    preview_url: url,
    template_id: sandbox.templateId,
    template_name: sandbox.templateName,
    organization_id: sandbox.organizationId,
    region: sandbox.region,
    resources: { vcpu: sandbox.vcpu, memory_mb: sandbox.memoryMib, disk_mb: sandbox.diskMib },
    internet_access: sandbox.internetAccess,
    live_mode: false,
    timeout_seconds: sandbox.timeoutSeconds,
    expires_at: sandbox.expiresAt === null ? null : timestamp(sandbox.expiresAt),
    created_at: timestamp(sandbox.createdAt),
    updated_at: timestamp(sandbox.updatedAt),
    metadata: sandbox.metadata,
    auto_pause:
      sandbox.autoPauseIdleSeconds === null ? null : { idle_seconds: sandbox.autoPauseIdleSeconds },
    auto_resume: sandbox.autoResume,
    preview_access: sandbox.previewAccess,
    preview_host: sandbox.previewHost,
    on_host_loss: sandbox.onHostLoss,
    ...placementOf(sandbox),
    ...(host === undefined ? {} : { node_id: host.id }),
    ...(sandbox.startedAt === null ? {} : { started_at: timestamp(sandbox.startedAt) }),
    ...(sandbox.endedAt === null ? {} : { end_at: timestamp(sandbox.endedAt) }),
    ...(operation === undefined ? {} : { operation }),
    ...conditionOf(view),
    ...(sandbox.error === null ? {} : { error: sandbox.error }),
    ...durabilityOf(view),
    ...(view.snapshot === undefined || sandbox.settledState !== "paused"
      ? {}
      : {
          snapshot: { generation: view.snapshot.generation, size_bytes: view.snapshot.sizeBytes },
        }),
  };
}

/** The placement as requested; left out for a sandbox that may run anywhere. */
function placementOf({
  placementLabels: labels,
  antiAffinity,
}: SandboxView["sandbox"]): Pick<SandboxResource, "placement"> {
  const hasLabels = Object.keys(labels).length > 0;
  if (!hasLabels && antiAffinity === null) return {};
  return {
    placement: {
      ...(hasLabels ? { labels } : {}),
      ...(antiAffinity === null ? {} : { anti_affinity: antiAffinity }),
    },
  };
}

/** Durability of a sandbox at rest: only on the disk of its host, or in the store as well. */
function durabilityOf({
  sandbox,
  snapshot,
  snapshotStoreKey,
}: SandboxView): Pick<SandboxResource, "durability"> {
  if (sandbox.settledState !== "paused" && sandbox.settledState !== "stopped") return {};
  const isStored =
    snapshot !== undefined && snapshotStoreKey !== undefined && snapshotStoreKey !== null;
  return { durability: isStored ? "replicated" : "host-disk" };
}

function conditionOf({
  sandbox,
  host,
  operation,
}: SandboxView): Pick<SandboxResource, "condition" | "condition_reason"> {
  if (host?.state === "lost" || operation?.status === "outcome_unknown")
    return { condition: "host_unreachable" };
  return sandbox.condition === null
    ? {}
    : { condition: sandbox.condition.code, condition_reason: sandbox.condition.message };
}

export function operationView(operation: OperationRow): Omit<OperationResource, "request_id"> {
  const optional = (date: Date | null) => (date === null ? null : timestamp(date));
  return {
    id: operation.id,
    object: "operation",
    kind: operation.kind,
    status: operation.status,
    sandbox_id: operation.sandboxId,
    requested_by: operation.requestedBy,
    deadline_at: timestamp(operation.deadlineAt),
    committed_at: optional(operation.committedAt),
    created_at: timestamp(operation.createdAt),
    started_at: optional(operation.startedAt),
    ended_at: optional(operation.endedAt),
    ...(operation.hostId === null ? {} : { host_id: operation.hostId }),
    ...(operation.error === null ? {} : { error: operation.error }),
    ...(operation.explain === null ? {} : { explain: operation.explain }),
    ...(operation.fetchedBytes === null || operation.endedAt !== null
      ? {}
      : { fetched_bytes: operation.fetchedBytes }),
    ...(operation.timingsMs === null ? {} : { timings_ms: operation.timingsMs }),
  };
}

export function eventView(event: EventRow): EventResource {
  return {
    object: "sandbox_event",
    sandbox_id: event.sandboxId,
    seq: event.seq,
    fact: event.fact,
    from: event.fromState,
    to: event.toState,
    epoch: event.epoch,
    ...(event.operationId === null ? {} : { operation_id: event.operationId }),
    ...(event.cause === null ? {} : { cause: event.cause }),
    occurred_at: timestamp(event.occurredAt),
  };
}
