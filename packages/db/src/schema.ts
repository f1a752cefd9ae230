/**
 * The tables. Postgres itself enforces what it can: states and statuses by CHECKs from the lists of
 * the state machine, one executing and one waiting operation per sandbox by partial unique indexes,
 * capacity by CHECKs, order by unique (sandbox, seq) and (sandbox, epoch).
 */
import {
  HOST_STATES,
  OPERATION_KINDS,
  OPERATION_STATUSES,
  SANDBOX_STATES,
  SETTLED_STATES,
} from "@torpor/state-machine";
import {
  type Cause,
  type HostId,
  type InventoryEntry,
  ON_HOST_LOSS,
  PREVIEW_ACCESS,
  type OperationId,
  PREVIEW_HOSTS,
  type QuotaLimits,
  type SandboxCondition,
  type SandboxId,
  type Scope,
  SCOPES,
  type SealedValue,
  TENANT_SCOPES,
} from "@torpor/contracts";
import { sql } from "drizzle-orm";
import {
  type AnyPgColumn,
  bigint,
  bigserial,
  boolean,
  check,
  doublePrecision,
  index,
  integer,
  jsonb,
  pgTable,
  primaryKey,
  text,
  timestamp,
  uniqueIndex,
} from "drizzle-orm/pg-core";
import {
  DRAIN_STATUSES,
  DRAINED_SANDBOX_ENDS,
  FINDING_KINDS,
  type HostImage,
} from "./host-records.ts";
import { kindOfMessage } from "./message-kind.ts";

const at = (name: string) => timestamp(name, { withTimezone: true, precision: 3 });
const createdAt = () => at("created_at").notNull().defaultNow();
const count = (name: string) => bigint(name, { mode: "number" });
const oneOf = (column: string, values: readonly string[]) =>
  sql.raw(`"${column}" IN (${values.map((value) => `'${value}'`).join(", ")})`);

export const organizations = pgTable("organizations", {
  id: integer("id").primaryKey().generatedAlwaysAsIdentity(),
  name: text("name").notNull().unique(),
  createdAt: createdAt(),
});

/**
 * Quotas; an organization without quotas has no row. A statement that may use up a quota locks the
 * row (queries/organizations/quotas.ts).
 */
export const organizationQuotas = pgTable("organization_quotas", {
  organizationId: integer("organization_id")
    .primaryKey()
    .references(() => organizations.id),
  limits: jsonb("limits").$type<QuotaLimits>().notNull(),
  updatedAt: at("updated_at").notNull().defaultNow(),
  updatedBy: text("updated_by").notNull(),
});

export const apiKeys = pgTable(
  "api_keys",
  {
    id: integer("id").primaryKey().generatedAlwaysAsIdentity(),
    organizationId: integer("organization_id")
      .notNull()
      .references(() => organizations.id),
    name: text("name").notNull(),
    /** SHA-256 of the key, hex. The key itself is stored nowhere. */
    keySha256: text("key_sha256").notNull().unique(),
    /** First characters of the key; null: the key was made elsewhere. */
    hint: text("hint"),
    /**
     * The default is for keys that are older than scopes, and for keys that an older version makes.
     */
    scopes: jsonb("scopes")
      .$type<Scope[]>()
      .notNull()
      .default([...TENANT_SCOPES]),
    /** `api-key:<id>`; null: made with direct access to the database. */
    createdBy: text("created_by"),
    createdAt: createdAt(),
    /** Null: the key never expires. */
    expiresAt: at("expires_at"),
    /** Approximate: written at most once a minute. */
    lastUsedAt: at("last_used_at"),
    /** The key that replaced this one in a rotation. */
    replacedBy: integer("replaced_by").references((): AnyPgColumn => apiKeys.id),
    revokedAt: at("revoked_at"),
  },
  (key) => [
    check(
      "api_keys_scopes",
      sql.raw(
        `jsonb_typeof("scopes") = 'array' AND "scopes" <> '[]' AND "scopes" <@ '${JSON.stringify(SCOPES)}'`,
      ),
    ),
    index("api_keys_organization").on(key.organizationId, key.id),
  ],
);

/**
 * Requests to the API, and requests that the edge refused. A trigger (0007) refuses changes, and
 * removals before their time.
 */
export const auditEntries = pgTable(
  "audit_entries",
  {
    id: bigserial("id", { mode: "number" }).primaryKey(),
    occurredAt: at("occurred_at").notNull(),
    /** `api-key:<id>`; null: the client had no valid key. */
    requestedBy: text("requested_by"),
    organizationId: integer("organization_id"),
    /** Peer address of the connection. */
    address: text("address").notNull(),
    /** Origin as the request's header claims it; a client can write anything there. */
    forwardedFor: text("forwarded_for"),
    method: text("method").notNull(),
    path: text("path").notNull(),
    /** Id of the created or affected resource, if the response has one. */
    resource: text("resource"),
    status: integer("status").notNull(),
    /** Error code of a refusal or a failure. */
    code: text("code"),
    requestId: text("request_id").notNull(),
  },
  (entry) => [
    index("audit_entries_requested_by").on(entry.requestedBy, entry.id),
    index("audit_entries_organization").on(entry.organizationId, entry.id),
    index("audit_entries_occurred_at").on(entry.occurredAt),
  ],
);

/**
 * Templates, from which sandboxes start; set by operators, never by hosts. A deleted template is
 * inactive, and its sandboxes continue.
 */
export const templates = pgTable("templates", {
  id: text("id").primaryKey(),
  name: text("name").notNull().unique(),
  displayName: text("display_name").notNull(),
  description: text("description").notNull(),
  category: text("category").notNull(),
  language: text("language").notNull(),
  vcpu: integer("vcpu").notNull(),
  memoryMib: integer("memory_mib").notNull(),
  diskMib: integer("disk_mib").notNull(),
  /** The image that new sandboxes start from. */
  imageSha256: text("image_sha256").notNull(),
  isActive: boolean("is_active").notNull().default(true),
  createdAt: createdAt(),
  updatedAt: at("updated_at").notNull().defaultNow(),
});

/** Every image that each template has had. */
export const templateImages = pgTable("template_images", {
  sha256: text("sha256").primaryKey(),
  templateId: text("template_id")
    .notNull()
    .references(() => templates.id),
  createdAt: createdAt(),
});

export const hosts = pgTable(
  "hosts",
  {
    id: text("id").$type<HostId>().primaryKey(),
    state: text("state", { enum: HOST_STATES }).notNull(),
    /** State of a lost host before the loss; restored when the host renews its lease. */
    stateBeforeLost: text("state_before_lost", { enum: HOST_STATES }),
    region: text("region").notNull(),
    dataPlaneUrl: text("data_plane_url").notNull(),
    /**
     * Key for the tickets of the host's data plane; null: version 0.1.0, which uses the fleet's
     * key.
     */
    ticketKey: text("ticket_key"),
    /** Public key that seals secrets in its commands; null: a version that cannot open them. */
    commandKey: text("command_key"),
    labels: jsonb("labels").$type<Record<string, string>>().notNull(),
    driver: text("driver").notNull(),
    driverFingerprint: text("driver_fingerprint").notNull(),
    /** Snapshots with these fingerprints can be restored on the host. */
    restorableFingerprints: jsonb("restorable_fingerprints")
      .$type<string[]>()
      .notNull()
      .default([]),
    agentVersion: text("agent_version").notNull(),
    /** A fence guarded the VMs at the last lease request: it freezes them when the lease ends. */
    hasFence: boolean("has_fence").notNull().default(false),
    imageSha256s: jsonb("image_sha256s").$type<string[]>().notNull(),
    /** The same images, each with the template that the host names for it. */
    images: jsonb("images").$type<HostImage[]>().notNull().default([]),
    /** vCPUs that the host reports; null: registered by a version that did not store the number. */
    vcpuOffered: integer("vcpu_offered"),
    /**
     * vCPUs that may be reserved: `vcpuOffered` times the schedulers' overcommit ratio, and never
     * less than the used ones.
     */
    vcpuCapacity: integer("vcpu_capacity").notNull(),
    memoryMibCapacity: integer("memory_mib_capacity").notNull(),
    diskMibCapacity: integer("disk_mib_capacity").notNull(),
    vcpuUsed: integer("vcpu_used").notNull().default(0),
    memoryMibUsed: integer("memory_mib_used").notNull().default(0),
    diskMibUsed: integer("disk_mib_used").notNull().default(0),
    load: jsonb("load").$type<Record<string, number>>(),
    leaseExpiresAt: at("lease_expires_at").notNull(),
    /** Since then the host gets no lease. */
    revokedAt: at("revoked_at"),
    lastHeartbeatAt: at("last_beat_at"),
    /**
     * Digest of the inventory that was last compared with the rows; what is still to compare is in
     * `host_checks`. Null: the host must send a whole inventory.
     */
    reconciledInventory: text("reconciled_inventory"),
    /** After that time the host must send a whole inventory again. */
    reconciledUntil: at("reconciled_until"),
    registeredAt: at("registered_at").notNull().defaultNow(),
  },
  (host) => [
    check("hosts_state", oneOf("state", HOST_STATES)),
    check("hosts_vcpu", sql`${host.vcpuUsed} BETWEEN 0 AND ${host.vcpuCapacity}`),
    check("hosts_memory", sql`${host.memoryMibUsed} BETWEEN 0 AND ${host.memoryMibCapacity}`),
    check("hosts_disk", sql`${host.diskMibUsed} BETWEEN 0 AND ${host.diskMibCapacity}`),
  ],
);

/** Admitted hosts: a row is made by a join with a token, or with direct access to the database. */
export const hostAdmissions = pgTable("host_admissions", {
  hostId: text("host_id").$type<HostId>().primaryKey(),
  /**
   * NKey of the host's user on the NATS servers; null: a user with a password, made by infra/nats.
   */
  natsPublicKey: text("nats_public_key"),
  /** The previous NKey, which is valid until `beforeGoodUntil`. */
  natsPublicKeyBefore: text("nats_public_key_before"),
  beforeGoodUntil: at("before_good_until"),
  /** Host in the data plane's URL; null: any that the schedulers' HOST_NETWORKS allow. */
  dataPlaneHost: text("data_plane_host"),
  /** Digest of the key in the certificate request; null: the host did not join with a token. */
  certificateKeySha256: text("certificate_key_sha256"),
  certificateExpiresAt: at("certificate_expires_at"),
  /** `host-token:<id>`, `api-key:<id>`, `migration` or `local`. */
  admittedBy: text("admitted_by").notNull(),
  admittedAt: at("admitted_at").notNull().defaultNow(),
  revokedAt: at("revoked_at"),
});

/** Tokens with which a host joins; each is valid for one host. */
export const hostTokens = pgTable("host_tokens", {
  id: integer("id").primaryKey().generatedAlwaysAsIdentity(),
  secretSha256: text("secret_sha256").notNull().unique(),
  /** The only host that may use the token; null: the first host that has not joined yet. */
  hostId: text("host_id").$type<HostId>(),
  dataPlaneHost: text("data_plane_host"),
  createdBy: text("created_by").notNull(),
  createdAt: createdAt(),
  expiresAt: at("expires_at").notNull(),
  usedAt: at("used_at"),
  /** The host that joined with the token. */
  usedBy: text("used_by"),
  revokedAt: at("revoked_at"),
});

/** Since when hosts can renew their leases. One row (queries/hosts/lease-service.ts). */
export const leaseService = pgTable(
  "lease_service",
  {
    id: integer("id").primaryKey(),
    /** Start of the time without a gap that ends at `answeredAt`. */
    answeringSince: at("answering_since").notNull(),
    /** When a scheduler last had both the bus and the database. */
    answeredAt: at("answered_at").notNull(),
    /**
     * Schedulers place by `local-first`: a sandbox continues on the host that holds it if there is
     * room.
     */
    placesAtHome: boolean("places_at_home").notNull().default(false),
  },
  (service) => [check("lease_service_one_row", sql`${service.id} = 1`)],
);

/** History of hosts, by ascending id: every move, and every finding. */
export const hostEvents = pgTable(
  "host_events",
  {
    id: bigserial("id", { mode: "number" }).primaryKey(),
    hostId: text("host_id")
      .$type<HostId>()
      .notNull()
      .references(() => hosts.id),
    fact: text("fact").notNull(),
    fromState: text("from_state"),
    toState: text("to_state").notNull(),
    /** `api-key:<id>`, `system:<reconciler>`, or the host itself. */
    requestedBy: text("requested_by").notNull(),
    cause: jsonb("cause").$type<Cause>(),
    occurredAt: at("occurred_at").notNull().defaultNow(),
  },
  (event) => [
    index("host_events_host").on(event.hostId, event.id),
    index("host_events_occurred_at").on(event.occurredAt),
  ],
);

/** Drains of hosts, each from its request to the last sandbox. */
export const drains = pgTable(
  "drains",
  {
    id: integer("id").primaryKey().generatedAlwaysAsIdentity(),
    hostId: text("host_id")
      .$type<HostId>()
      .notNull()
      .references(() => hosts.id),
    /**
     * `active`: empties the host. `undoing`: ended early, and the sandboxes that it paused are
     * being resumed. The other values are final.
     */
    status: text("status", { enum: DRAIN_STATUSES }).notNull(),
    /** Final status of an `undoing` drain: how the drain was ended. */
    endsAs: text("ends_as", { enum: DRAIN_STATUSES }),
    maxParallel: integer("max_parallel").notNull(),
    maxBytesPerSecond: count("max_bytes_per_second"),
    deadlineAt: at("deadline_at"),
    requestedBy: text("requested_by").notNull(),
    startedAt: at("started_at").notNull().defaultNow(),
    endedAt: at("ended_at"),
    /**
     * The most bytes that were ever copied, when that was last measured, and the recent rate. A
     * null rate: nothing has been copied under this budget yet.
     */
    measuredBytes: count("measured_bytes").notNull().default(0),
    measuredAt: at("measured_at").notNull().defaultNow(),
    bytesPerSecond: doublePrecision("bytes_per_second"),
  },
  (drain) => [
    check("drains_status", oneOf("status", DRAIN_STATUSES)),
    check("drains_max_parallel", sql`${drain.maxParallel} >= 1`),
    uniqueIndex("drains_one_at_work")
      .on(drain.hostId)
      .where(sql`status IN ('active', 'undoing')`),
    index("drains_host").on(drain.hostId, drain.id),
  ],
);

/** State of each sandbox of a drain. */
export const drainSandboxes = pgTable(
  "drain_sandboxes",
  {
    drainId: integer("drain_id")
      .notNull()
      .references(() => drains.id),
    sandboxId: text("sandbox_id")
      .$type<SandboxId>()
      .notNull()
      .references(() => sandboxes.id),
    /** The sandbox holds a slot since then, one of at most `max_parallel`. */
    workingSince: at("working_since"),
    /**
     * The drain has paused the sandbox, or is about to, and has to resume it. Cleared when the
     * owner requests a pause.
     */
    owesResume: boolean("owes_resume").notNull().default(false),
    /** The operation of the drain that is checked next. */
    operationId: text("operation_id").$type<OperationId>(),
    /** When the host was last requested to copy the sandbox to the store. */
    replicationAskedAt: at("replication_asked_at"),
    /** When the copy last grew, or the slot was taken. */
    progressedAt: at("progressed_at"),
    bytesDone: count("bytes_done").notNull().default(0),
    bytesTotal: count("bytes_total").notNull().default(0),
    /** `bytesTotal` is an estimate, because the copy has not begun. */
    isEstimate: boolean("is_estimate").notNull().default(true),
    /** Why the sandbox is still on the host. */
    error: jsonb("error").$type<Cause>(),
    attempts: integer("attempts").notNull().default(0),
    /** The next attempt does not begin before that time. */
    retryAt: at("retry_at"),
    endedAt: at("ended_at"),
    outcome: text("outcome", { enum: DRAINED_SANDBOX_ENDS }),
  },
  (item) => [
    primaryKey({ columns: [item.drainId, item.sandboxId] }),
    check("drain_sandboxes_outcome", oneOf("outcome", DRAINED_SANDBOX_ENDS)),
    index("drain_sandboxes_open")
      .on(item.sandboxId)
      .where(sql`ended_at IS NULL`),
  ],
);

/**
 * Disagreements between a host and the database about a sandbox. The database may not know the
 * sandbox.
 */
export const hostFindings = pgTable(
  "host_findings",
  {
    hostId: text("host_id")
      .$type<HostId>()
      .notNull()
      .references(() => hosts.id),
    sandboxId: text("sandbox_id").$type<SandboxId>().notNull(),
    kind: text("kind", { enum: FINDING_KINDS }).notNull(),
    message: text("message").notNull(),
    /** Epoch of the copy on the host; for `missing`, the epoch in the database. */
    epoch: integer("epoch").notNull(),
    /** Consecutive sightings; a missing sandbox is reported after several. */
    timesSeen: integer("times_seen").notNull().default(1),
    firstSeenAt: at("first_seen_at").notNull().defaultNow(),
    lastSeenAt: at("last_seen_at").notNull().defaultNow(),
    reportedAt: at("reported_at"),
    /** The host has paused the VM and cut its network. */
    quarantined: boolean("quarantined").notNull().default(false),
    /** When the host last got a command about the copy. */
    toldAt: at("told_at"),
    discardRequestedBy: text("discard_requested_by"),
  },
  (finding) => [
    primaryKey({ columns: [finding.hostId, finding.sandboxId] }),
    check("host_findings_kind", oneOf("kind", FINDING_KINDS)),
  ],
);

/**
 * Parts of an inventory that is too large for one heartbeat. Parts with another digest belong to
 * another inventory.
 */
export const hostInventoryParts = pgTable(
  "host_inventory_parts",
  {
    hostId: text("host_id")
      .$type<HostId>()
      .notNull()
      .references(() => hosts.id),
    digest: text("digest").notNull(),
    firstSandboxId: text("first_sandbox_id").$type<SandboxId>().notNull(),
    entries: jsonb("entries").$type<InventoryEntry[]>().notNull(),
    /** Null: written by a version that did not count. */
    entryCount: integer("entry_count"),
  },
  (part) => [primaryKey({ columns: [part.hostId, part.digest, part.firstSandboxId] })],
);

/**
 * Sandboxes that a host has to report, changed or not: those that came to the host or left it
 * (noted by a trigger on `sandboxes`, migration 0019), and those about which host and database
 * disagree. With the reconciled inventory, these are all that must be compared.
 */
export const hostChecks = pgTable(
  "host_checks",
  {
    hostId: text("host_id").$type<HostId>().notNull(),
    sandboxId: text("sandbox_id").$type<SandboxId>().notNull(),
    /** Generation of the sandbox when it came or left: an older report does not end the check. */
    version: count("version").notNull().default(0),
  },
  (item) => [primaryKey({ columns: [item.hostId, item.sandboxId] })],
);

export const sandboxes = pgTable(
  "sandboxes",
  {
    id: text("id").$type<SandboxId>().primaryKey(),
    organizationId: integer("organization_id")
      .notNull()
      .references(() => organizations.id),
    templateId: text("template_id").notNull(),
    templateName: text("template_name").notNull(),
    imageSha256: text("image_sha256").notNull(),
    state: text("state", { enum: SANDBOX_STATES }).notNull(),
    settledState: text("settled_state", { enum: SETTLED_STATES }).notNull(),
    /** Key for compare-and-set; every move raises it. */
    generation: count("generation").notNull().default(1),
    /** Number of incarnations; only rises. */
    epoch: integer("epoch").notNull().default(0),
    /** Number of commands; only rises. */
    opSeq: integer("op_seq").notNull().default(0),
    /** (epoch, opSeq, revision) of the newest observation that was applied. */
    appliedEpoch: integer("applied_epoch").notNull().default(0),
    appliedOpSeq: integer("applied_op_seq").notNull().default(0),
    appliedRevision: integer("applied_revision").notNull().default(0),
    hostId: text("host_id")
      .$type<HostId>()
      .references(() => hosts.id),
    /**
     * Host that still has the sandbox while `host_id` fetches it, and that gets it back if that
     * fails. The disk stays reserved there. Null in every settled state.
     */
    originHostId: text("origin_host_id")
      .$type<HostId>()
      .references(() => hosts.id),
    /**
     * vCPUs and memory are reserved on the host. The disk is reserved as long as there is a host.
     */
    holdsMemory: boolean("holds_memory").notNull().default(false),
    region: text("region").notNull(),
    vcpu: integer("vcpu").notNull(),
    memoryMib: integer("memory_mib").notNull(),
    diskMib: integer("disk_mib").notNull(),
    internetAccess: boolean("internet_access").notNull(),
    /** Variables in plain text, without the encrypted ones. */
    envVars: jsonb("env_vars").$type<Record<string, string>>().notNull(),
    envVarsSealed: jsonb("env_vars_sealed").$type<SealedValue>(),
    metadata: jsonb("metadata").$type<Record<string, string>>().notNull(),
    timeoutSeconds: integer("timeout_seconds"),
    /** When the sandbox is deleted; null without a timeout, and while the sandbox is at rest. */
    expiresAt: at("expires_at"),
    /** Rest of the timeout, in milliseconds, while the sandbox is at rest. */
    timeoutLeftMs: count("timeout_left_ms"),
    /** Idle time after which the system pauses the sandbox; null: never. */
    autoPauseIdleSeconds: integer("auto_pause_idle_seconds"),
    /** Traffic to the paused sandbox resumes it. */
    autoResume: boolean("auto_resume").notNull().default(false),
    /** The sandbox is placed only on hosts with all of these labels. */
    placementLabels: jsonb("placement_labels")
      .$type<Record<string, string>>()
      .notNull()
      .default({}),
    /** Two sandboxes of one organization with the same key are not placed on the same host. */
    antiAffinity: text("anti_affinity"),
    /** Who may reach the ports of the guest, except the guest agent's port. */
    previewAccess: text("preview_access", { enum: PREVIEW_ACCESS }).notNull().default("public"),
    /** The Host header that previews send to the application. */
    previewHost: text("preview_host", { enum: PREVIEW_HOSTS }).notNull().default("original"),
    /**
     * Policy for the loss of the host; applies from the next run on (incarnations.on_host_loss).
     */
    onHostLoss: text("on_host_loss", { enum: ON_HOST_LOSS }).notNull().default("wait"),
    /**
     * Start of the idle clock of `autoPauseIdleSeconds`; only kept for sandboxes with that policy.
     */
    lastActiveAt: at("last_active_at"),
    /** Loopback address on which the edge serves the sandbox; unique while the sandbox lives. */
    edgeAddress: text("edge_address").notNull(),
    /** Tokens of an earlier generation are refused; a revocation raises the number. */
    tokenGeneration: integer("token_generation").notNull().default(0),
    error: jsonb("error").$type<Cause>(),
    /** A problem that does not change the state. */
    condition: jsonb("condition").$type<SandboxCondition>(),
    /** Last sequence number in sandbox_events. */
    lastSeq: count("last_seq").notNull().default(0),
    createdAt: createdAt(),
    updatedAt: at("updated_at").notNull().defaultNow(),
    startedAt: at("started_at"),
    endedAt: at("ended_at"),
  },
  (sandbox) => [
    check("sandboxes_state", oneOf("state", SANDBOX_STATES)),
    check("sandboxes_settled_state", oneOf("settled_state", SETTLED_STATES)),
    check("sandboxes_preview_access", oneOf("preview_access", PREVIEW_ACCESS)),
    check("sandboxes_preview_host", oneOf("preview_host", PREVIEW_HOSTS)),
    check("sandboxes_on_host_loss", oneOf("on_host_loss", ON_HOST_LOSS)),
    check(
      "sandboxes_holds_memory",
      sql`${sandbox.hostId} IS NOT NULL OR NOT ${sandbox.holdsMemory}`,
    ),
    uniqueIndex("sandboxes_edge_address")
      .on(sandbox.edgeAddress)
      .where(sql`state <> 'deleted'`),
    index("sandboxes_organization").on(sandbox.organizationId, sandbox.id),
    index("sandboxes_listed")
      .on(sandbox.organizationId, sandbox.settledState, sandbox.id)
      .where(sql`state NOT IN ('deleting', 'deleted')`),
    index("sandboxes_region")
      .on(sandbox.organizationId, sandbox.region, sandbox.id)
      .where(sql`state NOT IN ('deleting', 'deleted')`),
    index("sandboxes_metadata")
      .using("gin", sandbox.metadata.op("jsonb_path_ops"))
      .where(sql`state NOT IN ('deleting', 'deleted') AND metadata <> '{}'`),
    index("sandboxes_host")
      .on(sandbox.hostId, sandbox.state)
      .where(sql`host_id IS NOT NULL`),
    index("sandboxes_origin_host")
      .on(sandbox.originHostId)
      .where(sql`origin_host_id IS NOT NULL`),
    index("sandboxes_expiry")
      .on(sandbox.expiresAt)
      .where(sql`expires_at IS NOT NULL AND state NOT IN ('deleting', 'deleted')`),
    index("sandboxes_anti_affinity")
      .on(sandbox.organizationId, sandbox.antiAffinity)
      .where(sql`anti_affinity IS NOT NULL`),
    index("sandboxes_eventful")
      .on(sandbox.id)
      .where(sql`last_seq > 10000`),
    index("sandboxes_running")
      .on(sandbox.id)
      .where(sql`settled_state = 'running'`),
    index("sandboxes_auto_pause")
      .on(
        sql`((last_active_at AT TIME ZONE 'UTC') + auto_pause_idle_seconds * interval '1 second')`,
      )
      .where(sql`auto_pause_idle_seconds IS NOT NULL AND state = 'running'`),
    index("sandboxes_deleting")
      .on(sandbox.updatedAt)
      .where(sql`state = 'deleting'`),
    index("sandboxes_paused")
      .on(sandbox.updatedAt)
      .where(sql`state = 'paused'`),
    index("sandboxes_restorable")
      .on(sandbox.hostId)
      .where(
        sql`on_host_loss = 'restore' AND state IN ('running', 'pausing', 'resuming', 'stopping', 'starting')`,
      ),
  ],
);

export const operations = pgTable(
  "operations",
  {
    id: text("id").$type<OperationId>().primaryKey(),
    sandboxId: text("sandbox_id")
      .$type<SandboxId>()
      .notNull()
      .references(() => sandboxes.id),
    organizationId: integer("organization_id").notNull(),
    kind: text("kind", { enum: OPERATION_KINDS }).notNull(),
    status: text("status", { enum: OPERATION_STATUSES }).notNull(),
    idempotencyKey: text("idempotency_key"),
    /** Digest of the request with the key; another request with the same key is refused. */
    requestSha256: text("request_sha256"),
    /** `api-key:<id>`, or `system:<reconciler>`. */
    requestedBy: text("requested_by").notNull(),
    deadlineAt: at("deadline_at").notNull(),
    /** The operation has passed its point of no return, and only an observation ends it. */
    committedAt: at("committed_at"),
    /** The operation is to back out; from then on a commit is refused. */
    cancelRequestedAt: at("cancel_requested_at"),
    /** For a pause by policy: the host backs out if the sandbox was used within this time. */
    onlyIfIdleForMs: integer("only_if_idle_for_ms"),
    hostId: text("host_id").$type<HostId>(),
    /** The only host that may be chosen; null: any that fits. */
    pinnedHostId: text("pinned_host_id").$type<HostId>(),
    /** Rate limit of copies between hosts and the store; null: no limit. */
    maxBytesPerSecond: count("max_bytes_per_second"),
    /**
     * The previous host, to which the sandbox returns if a move to `hostId` fails before the
     * commit.
     */
    originHostId: text("origin_host_id").$type<HostId>(),
    epoch: integer("epoch"),
    opSeq: integer("op_seq"),
    error: jsonb("error").$type<Cause>(),
    /** Why the operation waits: placement rejections by reason. */
    explain: jsonb("explain").$type<unknown>(),
    timingsMs: jsonb("timings_ms").$type<Record<string, number>>(),
    /**
     * Progress of the fetch, as last reported by the host. Null: nothing is fetched, or no report
     * yet.
     */
    fetchedBytes: jsonb("fetched_bytes").$type<{ done: number; total: number }>(),
    traceId: text("trace_id"),
    createdAt: createdAt(),
    startedAt: at("started_at"),
    endedAt: at("ended_at"),
  },
  (operation) => [
    check("operations_kind", oneOf("kind", OPERATION_KINDS)),
    check("operations_status", oneOf("status", OPERATION_STATUSES)),
    uniqueIndex("operations_one_executing")
      .on(operation.sandboxId)
      .where(sql`status IN ('executing', 'outcome_unknown')`),
    uniqueIndex("operations_one_waiting")
      .on(operation.sandboxId)
      .where(sql`status = 'waiting'`),
    uniqueIndex("operations_idempotency")
      .on(operation.organizationId, operation.idempotencyKey)
      .where(sql`idempotency_key IS NOT NULL`),
    index("operations_open")
      .on(operation.deadlineAt)
      .where(sql`status IN ('waiting', 'executing', 'outcome_unknown') AND committed_at IS NULL`),
    index("operations_waiting_since")
      .on(operation.createdAt)
      .where(sql`status = 'waiting'`),
    index("operations_sandbox").on(operation.sandboxId, operation.createdAt),
    index("operations_waiting")
      .on(operation.organizationId)
      .where(sql`status = 'waiting'`),
    index("operations_creates")
      .on(operation.organizationId, operation.createdAt)
      .where(sql`kind = 'create'`),
  ],
);

export const incarnations = pgTable(
  "incarnations",
  {
    sandboxId: text("sandbox_id")
      .$type<SandboxId>()
      .notNull()
      .references(() => sandboxes.id),
    epoch: integer("epoch").notNull(),
    hostId: text("host_id").$type<HostId>().notNull(),
    /** Policy of the run, set at its assignment: the host's fence freezes runs with `restore`. */
    onHostLoss: text("on_host_loss", { enum: ON_HOST_LOSS }).notNull().default("wait"),
    assignedAt: at("assigned_at").notNull().defaultNow(),
    /** When the vCPUs were allowed to run (the commit). Null: the run never began. */
    startedAt: at("started_at"),
    endedAt: at("ended_at"),
    cause: text("cause"),
    /**
     * For a lost run: when the sandbox, which has not run since, is next resumed. Null: no restore
     * is pending.
     */
    restoreDueAt: at("restore_due_at"),
  },
  (incarnation) => [
    primaryKey({ columns: [incarnation.sandboxId, incarnation.epoch] }),
    index("incarnations_restore_due")
      .on(incarnation.restoreDueAt)
      .where(sql`restore_due_at IS NOT NULL`),
    check("incarnations_on_host_loss", oneOf("on_host_loss", ON_HOST_LOSS)),
  ],
);

export const snapshots = pgTable(
  "snapshots",
  {
    sandboxId: text("sandbox_id")
      .$type<SandboxId>()
      .notNull()
      .references(() => sandboxes.id),
    generation: integer("generation").notNull(),
    epoch: integer("epoch").notNull(),
    hostId: text("host_id").$type<HostId>().notNull(),
    /** False: only the disk, of a stopped sandbox. */
    hasMemory: boolean("has_memory").notNull().default(true),
    /**
     * Key in the snapshot store; null: only on the host's disk. The store keeps the sandbox's
     * newest snapshot with a key, dropped or not, because a lost run is restored from it.
     */
    storeKey: text("store_key"),
    /** Why the snapshot will not reach the store by itself. */
    storeError: jsonb("store_error").$type<Cause>(),
    sizeBytes: count("size_bytes").notNull(),
    manifestSha256: text("manifest_sha256").notNull(),
    guestSynced: boolean("guest_synced").notNull(),
    driverFingerprint: text("driver_fingerprint").notNull(),
    createdAt: createdAt(),
    /** Consumed by a resume, dropped by a stop, or deleted. */
    droppedAt: at("dropped_at"),
  },
  (snapshot) => [
    primaryKey({ columns: [snapshot.sandboxId, snapshot.generation] }),
    index("snapshots_unstored")
      .on(snapshot.sandboxId)
      .where(sql`dropped_at IS NULL AND store_key IS NULL`),
  ],
);

export const sandboxEvents = pgTable(
  "sandbox_events",
  {
    sandboxId: text("sandbox_id")
      .$type<SandboxId>()
      .notNull()
      .references(() => sandboxes.id),
    seq: count("seq").notNull(),
    fact: text("fact").notNull(),
    fromState: text("from_state"),
    toState: text("to_state").notNull(),
    generation: count("generation").notNull(),
    epoch: integer("epoch").notNull(),
    operationId: text("operation_id").$type<OperationId>(),
    cause: jsonb("cause").$type<Cause>(),
    occurredAt: at("occurred_at").notNull().defaultNow(),
  },
  (event) => [primaryKey({ columns: [event.sandboxId, event.seq] })],
);

export const outbox = pgTable(
  "outbox",
  {
    id: bigserial("id", { mode: "number" }).primaryKey(),
    subject: text("subject").notNull(),
    payload: jsonb("payload").notNull(),
    traceId: text("trace_id"),
    createdAt: createdAt(),
    publishedAt: at("published_at"),
    /** Why the message can never be published. The row is kept for inspection. */
    refusedBecause: text("refused_because"),
  },
  (message) => [
    index("outbox_waiting")
      .on(kindOfMessage(message.subject), message.id)
      .where(sql`published_at IS NULL AND refused_because IS NULL`),
    index("outbox_published")
      .on(message.publishedAt)
      .where(sql`published_at IS NOT NULL`),
    index("outbox_refused")
      .on(message.id)
      .where(sql`refused_because IS NOT NULL`),
  ],
);
