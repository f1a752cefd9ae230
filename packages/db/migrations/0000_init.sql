CREATE TABLE "api_keys" (
	"id" integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "api_keys_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 2147483647 START WITH 1 CACHE 1),
	"organization_id" integer NOT NULL,
	"name" text NOT NULL,
	"key_sha256" text NOT NULL,
	"created_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	"revoked_at" timestamp (3) with time zone,
	CONSTRAINT "api_keys_key_sha256_unique" UNIQUE("key_sha256")
);
--> statement-breakpoint
CREATE TABLE "hosts" (
	"id" text PRIMARY KEY NOT NULL,
	"state" text NOT NULL,
	"state_before_lost" text,
	"region" text NOT NULL,
	"data_plane_url" text NOT NULL,
	"labels" jsonb NOT NULL,
	"driver" text NOT NULL,
	"driver_fingerprint" text NOT NULL,
	"agent_version" text NOT NULL,
	"image_sha256s" jsonb NOT NULL,
	"vcpu_capacity" integer NOT NULL,
	"memory_mib_capacity" integer NOT NULL,
	"disk_mib_capacity" integer NOT NULL,
	"vcpu_used" integer DEFAULT 0 NOT NULL,
	"memory_mib_used" integer DEFAULT 0 NOT NULL,
	"disk_mib_used" integer DEFAULT 0 NOT NULL,
	"load" jsonb,
	"lease_expires_at" timestamp (3) with time zone NOT NULL,
	"last_beat_at" timestamp (3) with time zone,
	"registered_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "hosts_state" CHECK ("state" IN ('ready', 'cordoned', 'draining', 'lost', 'retired')),
	CONSTRAINT "hosts_vcpu" CHECK ("hosts"."vcpu_used" BETWEEN 0 AND "hosts"."vcpu_capacity"),
	CONSTRAINT "hosts_memory" CHECK ("hosts"."memory_mib_used" BETWEEN 0 AND "hosts"."memory_mib_capacity"),
	CONSTRAINT "hosts_disk" CHECK ("hosts"."disk_mib_used" BETWEEN 0 AND "hosts"."disk_mib_capacity")
);
--> statement-breakpoint
CREATE TABLE "incarnations" (
	"sandbox_id" text NOT NULL,
	"epoch" integer NOT NULL,
	"host_id" text NOT NULL,
	"assigned_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	"started_at" timestamp (3) with time zone,
	"ended_at" timestamp (3) with time zone,
	"cause" text,
	CONSTRAINT "incarnations_sandbox_id_epoch_pk" PRIMARY KEY("sandbox_id","epoch")
);
--> statement-breakpoint
CREATE TABLE "operations" (
	"id" text PRIMARY KEY NOT NULL,
	"sandbox_id" text NOT NULL,
	"organization_id" integer NOT NULL,
	"kind" text NOT NULL,
	"status" text NOT NULL,
	"idempotency_key" text,
	"request_sha256" text,
	"requested_by" text NOT NULL,
	"deadline_at" timestamp (3) with time zone NOT NULL,
	"committed_at" timestamp (3) with time zone,
	"cancel_requested_at" timestamp (3) with time zone,
	"host_id" text,
	"origin_host_id" text,
	"epoch" integer,
	"op_seq" integer,
	"error" jsonb,
	"explain" jsonb,
	"timings_ms" jsonb,
	"trace_id" text,
	"created_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	"started_at" timestamp (3) with time zone,
	"ended_at" timestamp (3) with time zone,
	CONSTRAINT "operations_kind" CHECK ("kind" IN ('create', 'pause', 'resume', 'stop', 'start', 'delete')),
	CONSTRAINT "operations_status" CHECK ("status" IN ('waiting', 'executing', 'outcome_unknown', 'succeeded', 'failed', 'cancelled', 'superseded'))
);
--> statement-breakpoint
CREATE TABLE "organizations" (
	"id" integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "organizations_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 2147483647 START WITH 1 CACHE 1),
	"name" text NOT NULL,
	"created_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "organizations_name_unique" UNIQUE("name")
);
--> statement-breakpoint
CREATE TABLE "outbox" (
	"id" bigserial PRIMARY KEY NOT NULL,
	"subject" text NOT NULL,
	"payload" jsonb NOT NULL,
	"trace_id" text,
	"created_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	"published_at" timestamp (3) with time zone
);
--> statement-breakpoint
CREATE TABLE "sandbox_events" (
	"sandbox_id" text NOT NULL,
	"seq" bigint NOT NULL,
	"fact" text NOT NULL,
	"from_state" text,
	"to_state" text NOT NULL,
	"generation" bigint NOT NULL,
	"epoch" integer NOT NULL,
	"operation_id" text,
	"cause" jsonb,
	"occurred_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "sandbox_events_sandbox_id_seq_pk" PRIMARY KEY("sandbox_id","seq")
);
--> statement-breakpoint
CREATE TABLE "sandboxes" (
	"id" text PRIMARY KEY NOT NULL,
	"organization_id" integer NOT NULL,
	"template_id" text NOT NULL,
	"template_name" text NOT NULL,
	"image_sha256" text NOT NULL,
	"state" text NOT NULL,
	"settled_state" text NOT NULL,
	"generation" bigint DEFAULT 1 NOT NULL,
	"epoch" integer DEFAULT 0 NOT NULL,
	"op_seq" integer DEFAULT 0 NOT NULL,
	"applied_epoch" integer DEFAULT 0 NOT NULL,
	"applied_op_seq" integer DEFAULT 0 NOT NULL,
	"applied_revision" integer DEFAULT 0 NOT NULL,
	"host_id" text,
	"holds_memory" boolean DEFAULT false NOT NULL,
	"region" text NOT NULL,
	"vcpu" integer NOT NULL,
	"memory_mib" integer NOT NULL,
	"disk_mib" integer NOT NULL,
	"internet_access" boolean NOT NULL,
	"env_vars" jsonb NOT NULL,
	"metadata" jsonb NOT NULL,
	"timeout_seconds" integer,
	"expires_at" timestamp (3) with time zone,
	"timeout_left_ms" bigint,
	"edge_address" text NOT NULL,
	"error" jsonb,
	"last_seq" bigint DEFAULT 0 NOT NULL,
	"created_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	"started_at" timestamp (3) with time zone,
	"ended_at" timestamp (3) with time zone,
	CONSTRAINT "sandboxes_state" CHECK ("state" IN ('creating', 'running', 'pausing', 'paused', 'resuming', 'stopping', 'stopped', 'starting', 'deleting', 'deleted', 'error')),
	CONSTRAINT "sandboxes_settled_state" CHECK ("settled_state" IN ('creating', 'running', 'paused', 'stopped', 'deleted', 'error')),
	CONSTRAINT "sandboxes_holds_memory" CHECK ("sandboxes"."host_id" IS NOT NULL OR NOT "sandboxes"."holds_memory")
);
--> statement-breakpoint
CREATE TABLE "snapshots" (
	"sandbox_id" text NOT NULL,
	"generation" integer NOT NULL,
	"epoch" integer NOT NULL,
	"host_id" text NOT NULL,
	"store_key" text,
	"size_bytes" bigint NOT NULL,
	"manifest_sha256" text NOT NULL,
	"guest_synced" boolean NOT NULL,
	"driver_fingerprint" text NOT NULL,
	"created_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	"dropped_at" timestamp (3) with time zone,
	CONSTRAINT "snapshots_sandbox_id_generation_pk" PRIMARY KEY("sandbox_id","generation")
);
--> statement-breakpoint
CREATE TABLE "template_images" (
	"sha256" text PRIMARY KEY NOT NULL,
	"template_id" text NOT NULL,
	"created_at" timestamp (3) with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "templates" (
	"id" text PRIMARY KEY NOT NULL,
	"name" text NOT NULL,
	"display_name" text NOT NULL,
	"description" text NOT NULL,
	"category" text NOT NULL,
	"language" text NOT NULL,
	"vcpu" integer NOT NULL,
	"memory_mib" integer NOT NULL,
	"disk_mib" integer NOT NULL,
	"image_sha256" text NOT NULL,
	"is_active" boolean DEFAULT true NOT NULL,
	"created_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	"updated_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "templates_name_unique" UNIQUE("name")
);
--> statement-breakpoint
ALTER TABLE "api_keys" ADD CONSTRAINT "api_keys_organization_id_organizations_id_fk" FOREIGN KEY ("organization_id") REFERENCES "public"."organizations"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "incarnations" ADD CONSTRAINT "incarnations_sandbox_id_sandboxes_id_fk" FOREIGN KEY ("sandbox_id") REFERENCES "public"."sandboxes"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "operations" ADD CONSTRAINT "operations_sandbox_id_sandboxes_id_fk" FOREIGN KEY ("sandbox_id") REFERENCES "public"."sandboxes"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "sandbox_events" ADD CONSTRAINT "sandbox_events_sandbox_id_sandboxes_id_fk" FOREIGN KEY ("sandbox_id") REFERENCES "public"."sandboxes"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "sandboxes" ADD CONSTRAINT "sandboxes_organization_id_organizations_id_fk" FOREIGN KEY ("organization_id") REFERENCES "public"."organizations"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "sandboxes" ADD CONSTRAINT "sandboxes_host_id_hosts_id_fk" FOREIGN KEY ("host_id") REFERENCES "public"."hosts"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "snapshots" ADD CONSTRAINT "snapshots_sandbox_id_sandboxes_id_fk" FOREIGN KEY ("sandbox_id") REFERENCES "public"."sandboxes"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "template_images" ADD CONSTRAINT "template_images_template_id_templates_id_fk" FOREIGN KEY ("template_id") REFERENCES "public"."templates"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
CREATE UNIQUE INDEX "operations_one_executing" ON "operations" USING btree ("sandbox_id") WHERE status IN ('executing', 'outcome_unknown');--> statement-breakpoint
CREATE UNIQUE INDEX "operations_one_waiting" ON "operations" USING btree ("sandbox_id") WHERE status = 'waiting';--> statement-breakpoint
CREATE UNIQUE INDEX "operations_idempotency" ON "operations" USING btree ("organization_id","idempotency_key") WHERE idempotency_key IS NOT NULL;--> statement-breakpoint
CREATE INDEX "operations_open" ON "operations" USING btree ("deadline_at") WHERE status IN ('waiting', 'executing', 'outcome_unknown');--> statement-breakpoint
CREATE INDEX "operations_sandbox" ON "operations" USING btree ("sandbox_id","created_at");--> statement-breakpoint
CREATE INDEX "outbox_unpublished" ON "outbox" USING btree ("id") WHERE published_at IS NULL;--> statement-breakpoint
CREATE UNIQUE INDEX "sandboxes_edge_address" ON "sandboxes" USING btree ("edge_address") WHERE state <> 'deleted';--> statement-breakpoint
CREATE INDEX "sandboxes_organization" ON "sandboxes" USING btree ("organization_id","id");--> statement-breakpoint
CREATE INDEX "sandboxes_host" ON "sandboxes" USING btree ("host_id") WHERE host_id IS NOT NULL;--> statement-breakpoint
CREATE INDEX "sandboxes_expiry" ON "sandboxes" USING btree ("expires_at") WHERE expires_at IS NOT NULL;