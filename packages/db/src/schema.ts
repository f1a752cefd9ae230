/**
 * The tables. What can be held by the database is: states and statuses by CHECK from the state
 * machine's lists, one executing and one waiting operation per sandbox by partial unique indexes,
 * capacity by CHECK, order by unique (sandbox, seq) and (sandbox, epoch).
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
  type InventoryEntry,
  ON_HOST_LOSS,
  PREVIEW_ACCESS,
  PREVIEW_HOSTS,
  type QuotaLimits,
  type SandboxCondition,
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
 * Of organizations that have any. Its lock is held by whatever may use one up (queries/quotas.ts).
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
    /** What the key begins with; null: it was not made here. */
    hint: text("hint"),
    /**
     * The default is for keys from before there were scopes, and those that a program of then
     * makes.
     */
    scopes: jsonb("scopes")
      .$type<Scope[]>()
      .notNull()
      .default([...TENANT_SCOPES]),
    /** `api-key:<id>`; null: whoever has the database. */
    createdBy: text("created_by"),
    createdAt: createdAt(),
    /** Null: never. */
    expiresAt: at("expires_at"),
    /** About: written once a minute at most. */
    lastUsedAt: at("last_used_at"),
    /** The key that a rotation made in its place. */
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
 * What was asked of the API, and of the edge where it refused. Nothing is changed or removed before
 * its time: a trigger holds that (0007).
 */
export const auditEntries = pgTable(
  "audit_entries",
  {
    id: bigserial("id", { mode: "number" }).primaryKey(),
    occurredAt: at("occurred_at").notNull(),
    /** `api-key:<id>`; null: whoever it was had no key, or none that is good. */
    requestedBy: text("requested_by"),
    organizationId: integer("organization_id"),
    /** Of the connection. */
    address: text("address").notNull(),
    /** What the request says of where it came from; anybody can write that. */
    forwardedFor: text("forwarded_for"),
    method: text("method").notNull(),
    path: text("path").notNull(),
    /** The id of what was made or acted on, where the answer has one. */
    resource: text("resource"),
    status: integer("status").notNull(),
    /** Of a refusal or a failure. */
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
 * What sandboxes begin as: an operator says so, and no host. A deleted one is inactive; sandboxes
 * made of it go on.
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

/** Every image that a template has had. */
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
    id: text("id").primaryKey(),
    state: text("state", { enum: HOST_STATES }).notNull(),
    /** What a lost host was before, and is again when it renews its lease. */
    stateBeforeLost: text("state_before_lost", { enum: HOST_STATES }),
    region: text("region").notNull(),
    dataPlaneUrl: text("data_plane_url").notNull(),
    /**
     * Of which the tickets for its data plane are made; null: of 0.1.0, which takes the fleet's
     * key.
     */
    ticketKey: text("ticket_key"),
    /** For which secrets in its commands are sealed; null: of a version that cannot open them. */
    commandKey: text("command_key"),
    labels: jsonb("labels").$type<Record<string, string>>().notNull(),
    driver: text("driver").notNull(),
    driverFingerprint: text("driver_fingerprint").notNull(),
    /** Snapshots of these restore there. */
    restorableFingerprints: jsonb("restorable_fingerprints")
      .$type<string[]>()
      .notNull()
      .default([]),
    agentVersion: text("agent_version").notNull(),
    /** A fence guarded its VMs when it last spoke: they are frozen when its lease ends. */
    hasFence: boolean("has_fence").notNull().default(false),
    imageSha256s: jsonb("image_sha256s").$type<string[]>().notNull(),
    /** The same, with the template that each was made for, as the host has it. */
    images: jsonb("images").$type<HostImage[]>().notNull().default([]),
    /** vCPUs that the host says it has; null: of a version that did not keep it. */
    vcpuOffered: integer("vcpu_offered"),
    /**
     * What may be reserved of them: offered, times the overcommit ratio of the schedulers. Never
     * below what is used.
     */
    vcpuCapacity: integer("vcpu_capacity").notNull(),
    memoryMibCapacity: integer("memory_mib_capacity").notNull(),
    diskMibCapacity: integer("disk_mib_capacity").notNull(),
    vcpuUsed: integer("vcpu_used").notNull().default(0),
    memoryMibUsed: integer("memory_mib_used").notNull().default(0),
    diskMibUsed: integer("disk_mib_used").notNull().default(0),
    load: jsonb("load").$type<Record<string, number>>(),
    leaseExpiresAt: at("lease_expires_at").notNull(),
    /** Since when it is not let in any more: its lease is not renewed. */
    revokedAt: at("revoked_at"),
    lastBeatAt: at("last_beat_at"),
    /**
     * Digest of the inventory that was compared with the rows here; what there is still to say
     * about it is in `host_checks`. Null: a whole one is wanted.
     */
    reconciledInventory: text("reconciled_inventory"),
    /** Then a whole one is wanted again. */
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

/** Who may be a host. A row is made when one joins with a token, or by whoever has the database. */
export const hostAdmissions = pgTable("host_admissions", {
  hostId: text("host_id").primaryKey(),
  /** NKey of its user on the NATS servers; null: it has a password there, made by infra/nats. */
  natsPublicKey: text("nats_public_key"),
  /** The one that it took the place of, which is good until then. */
  natsPublicKeyBefore: text("nats_public_key_before"),
  beforeGoodUntil: at("before_good_until"),
  /** The host of its data plane's address; null: any that the schedulers' HOST_NETWORKS allow. */
  dataPlaneHost: text("data_plane_host"),
  /**
   * Of the key that the certificate is for, as it was asked for; null: it did not join by a token.
   */
  certificateKeySha256: text("certificate_key_sha256"),
  certificateExpiresAt: at("certificate_expires_at"),
  /** `host-token:<id>`, `api-key:<id>`, `migration` or `local`. */
  admittedBy: text("admitted_by").notNull(),
  admittedAt: at("admitted_at").notNull().defaultNow(),
  revokedAt: at("revoked_at"),
});

/** What lets a host join, once. */
export const hostTokens = pgTable("host_tokens", {
  id: integer("id").primaryKey().generatedAlwaysAsIdentity(),
  secretSha256: text("secret_sha256").notNull().unique(),
  /** The host that may join with it; null: one that has not joined yet, whichever comes first. */
  hostId: text("host_id"),
  dataPlaneHost: text("data_plane_host"),
  createdBy: text("created_by").notNull(),
  createdAt: createdAt(),
  expiresAt: at("expires_at").notNull(),
  usedAt: at("used_at"),
  /** The host that joined with it. */
  usedBy: text("used_by"),
  revokedAt: at("revoked_at"),
});

/** Since when hosts have been able to renew their leases. One row (queries/lease-service.ts). */
export const leaseService = pgTable(
  "lease_service",
  {
    id: integer("id").primaryKey(),
    /** Of the time without a gap that lasts until `answered_at`. */
    answeringSince: at("answering_since").notNull(),
    /** When a scheduler last had both the bus and the database. */
    answeredAt: at("answered_at").notNull(),
    /**
     * Schedulers place by `local-first`: where the host that holds a sandbox has room, it goes on
     * there.
     */
    placesAtHome: boolean("places_at_home").notNull().default(false),
  },
  (service) => [check("lease_service_one_row", sql`${service.id} = 1`)],
);

/** What happened to hosts, oldest first by id: every move, and what was found on them. */
export const hostEvents = pgTable(
  "host_events",
  {
    id: bigserial("id", { mode: "number" }).primaryKey(),
    hostId: text("host_id")
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

/** One drain of a host, from its request to the last sandbox. */
export const drains = pgTable(
  "drains",
  {
    id: integer("id").primaryKey().generatedAlwaysAsIdentity(),
    hostId: text("host_id")
      .notNull()
      .references(() => hosts.id),
    /**
     * `active`: empties the host. `undoing`: ended before that, and what it has paused is resumed.
     * The others are its ends.
     */
    status: text("status", { enum: DRAIN_STATUSES }).notNull(),
    /** What an `undoing` drain becomes: who ended it. */
    endsAs: text("ends_as", { enum: DRAIN_STATUSES }),
    maxParallel: integer("max_parallel").notNull(),
    maxBytesPerSecond: count("max_bytes_per_second"),
    deadlineAt: at("deadline_at"),
    requestedBy: text("requested_by").notNull(),
    startedAt: at("started_at").notNull().defaultNow(),
    endedAt: at("ended_at"),
    /**
     * The most that has been copied at once, when that was looked at last, and how fast it grew
     * lately; null: nothing has been copied under this budget yet.
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

/** What a drain does with each sandbox of its host. */
export const drainSandboxes = pgTable(
  "drain_sandboxes",
  {
    drainId: integer("drain_id")
      .notNull()
      .references(() => drains.id),
    sandboxId: text("sandbox_id")
      .notNull()
      .references(() => sandboxes.id),
    /** It is being moved: one of at most `max_parallel`. */
    workingSince: at("working_since"),
    /**
     * The drain has paused it, or is about to, and owes it a resume. Cleared when its owner asks
     * for a pause meanwhile.
     */
    owesResume: boolean("owes_resume").notNull().default(false),
    /** The operation of the drain that is looked at next. */
    operationId: text("operation_id"),
    /** When its host was last asked for a copy in the store. */
    replicationAskedAt: at("replication_asked_at"),
    /** When its copy last grew, or its place was taken. */
    progressedAt: at("progressed_at"),
    bytesDone: count("bytes_done").notNull().default(0),
    bytesTotal: count("bytes_total").notNull().default(0),
    /** `bytesTotal` is expected, not counted: its copy has not begun. */
    isEstimate: boolean("is_estimate").notNull().default(true),
    /** Why it is still there. */
    error: jsonb("error").$type<Cause>(),
    attempts: integer("attempts").notNull().default(0),
    /** Not before then. */
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
 * Where a host and the database disagree about a sandbox. The sandbox may be one that the database
 * does not know.
 */
export const hostFindings = pgTable(
  "host_findings",
  {
    hostId: text("host_id")
      .notNull()
      .references(() => hosts.id),
    sandboxId: text("sandbox_id").notNull(),
    kind: text("kind", { enum: FINDING_KINDS }).notNull(),
    message: text("message").notNull(),
    /** Of the copy on the host; of a missing one, as the database has it. */
    epoch: integer("epoch").notNull(),
    /** How often in a row it was seen; a missing one is reported after several. */
    timesSeen: integer("times_seen").notNull().default(1),
    firstSeenAt: at("first_seen_at").notNull().defaultNow(),
    lastSeenAt: at("last_seen_at").notNull().defaultNow(),
    reportedAt: at("reported_at"),
    /** The host has frozen it and cut its network. */
    quarantined: boolean("quarantined").notNull().default(false),
    /** When the host was last told what to do with it. */
    toldAt: at("told_at"),
    discardRequestedBy: text("discard_requested_by"),
  },
  (finding) => [
    primaryKey({ columns: [finding.hostId, finding.sandboxId] }),
    check("host_findings_kind", oneOf("kind", FINDING_KINDS)),
  ],
);

/**
 * Parts of the inventory that a host is sending, for one too large for a single beat. Parts of
 * another digest are of another inventory.
 */
export const hostInventoryParts = pgTable(
  "host_inventory_parts",
  {
    hostId: text("host_id")
      .notNull()
      .references(() => hosts.id),
    digest: text("digest").notNull(),
    firstSandboxId: text("first_sandbox_id").notNull(),
    entries: jsonb("entries").$type<InventoryEntry[]>().notNull(),
    /** Null: of a version that did not count. */
    entryCount: integer("entry_count"),
  },
  (part) => [primaryKey({ columns: [part.hostId, part.digest, part.firstSandboxId] })],
);

/**
 * Sandboxes that a host is asked to report, changed or not: each that came to it or left it (a
 * trigger on `sandboxes` notes that, migration 0019), and each about which host and database
 * disagree. Beside the reconciled inventory this is all that there is to compare.
 */
export const hostChecks = pgTable(
  "host_checks",
  {
    hostId: text("host_id").notNull(),
    sandboxId: text("sandbox_id").notNull(),
    /**
     * Generation of the sandbox when it came or left: what was reported before that does not end
     * the check.
     */
    version: count("version").notNull().default(0),
  },
  (item) => [primaryKey({ columns: [item.hostId, item.sandboxId] })],
);

export const sandboxes = pgTable(
  "sandboxes",
  {
    id: text("id").primaryKey(),
    organizationId: integer("organization_id")
      .notNull()
      .references(() => organizations.id),
    templateId: text("template_id").notNull(),
    templateName: text("template_name").notNull(),
    imageSha256: text("image_sha256").notNull(),
    state: text("state", { enum: SANDBOX_STATES }).notNull(),
    settledState: text("settled_state", { enum: SETTLED_STATES }).notNull(),
    /** Compare-and-set key: raised by every move. */
    generation: count("generation").notNull().default(1),
    /** Incarnations so far; only rises. */
    epoch: integer("epoch").notNull().default(0),
    /** Commands so far; only rises. */
    opSeq: integer("op_seq").notNull().default(0),
    /** (epoch, opSeq, revision) of the newest observation that was applied. */
    appliedEpoch: integer("applied_epoch").notNull().default(0),
    appliedOpSeq: integer("applied_op_seq").notNull().default(0),
    appliedRevision: integer("applied_revision").notNull().default(0),
    hostId: text("host_id").references(() => hosts.id),
    /**
     * Where it lies while it is brought to `host_id`, and goes back to when that fails. Its disk
     * stays reserved there. Null in every settled state.
     */
    originHostId: text("origin_host_id").references(() => hosts.id),
    /** vCPUs and memory are reserved on the host; the disk is as long as there is a host. */
    holdsMemory: boolean("holds_memory").notNull().default(false),
    region: text("region").notNull(),
    vcpu: integer("vcpu").notNull(),
    memoryMib: integer("memory_mib").notNull(),
    diskMib: integer("disk_mib").notNull(),
    internetAccess: boolean("internet_access").notNull(),
    /** In plain text; none of those that are encrypted. */
    envVars: jsonb("env_vars").$type<Record<string, string>>().notNull(),
    envVarsSealed: jsonb("env_vars_sealed").$type<SealedValue>(),
    metadata: jsonb("metadata").$type<Record<string, string>>().notNull(),
    timeoutSeconds: integer("timeout_seconds"),
    /** When the sandbox is deleted; null without a timeout and while paused or stopped. */
    expiresAt: at("expires_at"),
    /** What is left of the timeout while it stands still (paused, stopped). */
    timeoutLeftMs: count("timeout_left_ms"),
    /** Paused by the system when nothing has used it for so long; null: never. */
    autoPauseIdleSeconds: integer("auto_pause_idle_seconds"),
    /** Traffic to it while it is paused resumes it. */
    autoResume: boolean("auto_resume").notNull().default(false),
    /** It is placed on hosts with all of these labels alone. */
    placementLabels: jsonb("placement_labels")
      .$type<Record<string, string>>()
      .notNull()
      .default({}),
    /** It is brought to no host that has another sandbox of its organization with the same key. */
    antiAffinity: text("anti_affinity"),
    /** Who reaches the ports of its guest, the agent's own aside. */
    previewAccess: text("preview_access", { enum: PREVIEW_ACCESS }).notNull().default("public"),
    /** Which Host the applications of its previews are given. */
    previewHost: text("preview_host", { enum: PREVIEW_HOSTS }).notNull().default("original"),
    /**
     * What becomes of it when its host is lost; counts from the next run on
     * (incarnations.on_host_loss).
     */
    onHostLoss: text("on_host_loss", { enum: ON_HOST_LOSS }).notNull().default("wait"),
    /**
     * Start of the idle clock of `autoPauseIdleSeconds`; kept up for sandboxes with that policy
     * alone.
     */
    lastActiveAt: at("last_active_at"),
    /** Loopback address that the edge serves this sandbox on; unique while the sandbox lives. */
    edgeAddress: text("edge_address").notNull(),
    /** Tokens of an earlier one are refused; raised when they are revoked. */
    tokenGeneration: integer("token_generation").notNull().default(0),
    error: jsonb("error").$type<Cause>(),
    /** What is wrong while it is in its state all the same. */
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
    id: text("id").primaryKey(),
    sandboxId: text("sandbox_id")
      .notNull()
      .references(() => sandboxes.id),
    organizationId: integer("organization_id").notNull(),
    kind: text("kind", { enum: OPERATION_KINDS }).notNull(),
    status: text("status", { enum: OPERATION_STATUSES }).notNull(),
    idempotencyKey: text("idempotency_key"),
    /** Digest of the request that carried the key: the same key with another request is refused. */
    requestSha256: text("request_sha256"),
    /** `api-key:<id>`, or `system:<reconciler>`. */
    requestedBy: text("requested_by").notNull(),
    deadlineAt: at("deadline_at").notNull(),
    /** Passed its point of no return: ends by observation alone. */
    committedAt: at("committed_at"),
    /** Asked to back out; a commit is refused from then on. */
    cancelRequestedAt: at("cancel_requested_at"),
    /**
     * A pause that nobody asked for: the host backs out of it when the sandbox was used more
     * recently than that.
     */
    onlyIfIdleForMs: integer("only_if_idle_for_ms"),
    hostId: text("host_id"),
    /** The one host that may be chosen for it; null: any that fits. */
    pinnedHostId: text("pinned_host_id"),
    /** How fast what it copies between hosts and the store may go; null: no limit. */
    maxBytesPerSecond: count("max_bytes_per_second"),
    /**
     * The host that the sandbox was on before; it is again if a move to `hostId` fails uncommitted.
     */
    originHostId: text("origin_host_id"),
    epoch: integer("epoch"),
    opSeq: integer("op_seq"),
    error: jsonb("error").$type<Cause>(),
    /** Why it waits: placement rejections by reason. */
    explain: jsonb("explain").$type<unknown>(),
    timingsMs: jsonb("timings_ms").$type<Record<string, number>>(),
    /**
     * How much of what it brings to its host has arrived, as that host said last. Null: it brings
     * nothing, or nothing is known yet.
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
      .notNull()
      .references(() => sandboxes.id),
    epoch: integer("epoch").notNull(),
    hostId: text("host_id").notNull(),
    /** The policy that it was assigned with: `restore` runs are frozen by their host's fence. */
    onHostLoss: text("on_host_loss", { enum: ON_HOST_LOSS }).notNull().default("wait"),
    assignedAt: at("assigned_at").notNull().defaultNow(),
    /** Set when its vCPUs were allowed to run (the commit). Null: it never ran. */
    startedAt: at("started_at"),
    endedAt: at("ended_at"),
    cause: text("cause"),
    /**
     * Of one that was given up for lost: when its sandbox, which has run no more since, is next
     * resumed; null: it is owed that no more.
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
      .notNull()
      .references(() => sandboxes.id),
    generation: integer("generation").notNull(),
    epoch: integer("epoch").notNull(),
    hostId: text("host_id").notNull(),
    /** False: the disk of a stopped sandbox. */
    hasMemory: boolean("has_memory").notNull().default(true),
    /**
     * Key in the snapshot store; null while it is on its host's disk alone. The newest one that has
     * it is in the store, dropped or not: what a lost run is restored from.
     */
    storeKey: text("store_key"),
    /** Why it is not there and will not get there by itself. */
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
      .notNull()
      .references(() => sandboxes.id),
    seq: count("seq").notNull(),
    fact: text("fact").notNull(),
    fromState: text("from_state"),
    toState: text("to_state").notNull(),
    generation: count("generation").notNull(),
    epoch: integer("epoch").notNull(),
    operationId: text("operation_id"),
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
    /** Why it can never be published; it is set aside, and kept to be looked at. */
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
