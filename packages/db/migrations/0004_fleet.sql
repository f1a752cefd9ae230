CREATE TABLE "drain_sandboxes" (
	"drain_id" integer NOT NULL,
	"sandbox_id" text NOT NULL,
	"working_since" timestamp (3) with time zone,
	"owes_resume" boolean DEFAULT false NOT NULL,
	"operation_id" text,
	"replication_asked_at" timestamp (3) with time zone,
	"progressed_at" timestamp (3) with time zone,
	"bytes_done" bigint DEFAULT 0 NOT NULL,
	"bytes_total" bigint DEFAULT 0 NOT NULL,
	"error" jsonb,
	"attempts" integer DEFAULT 0 NOT NULL,
	"retry_at" timestamp (3) with time zone,
	"ended_at" timestamp (3) with time zone,
	"outcome" text,
	CONSTRAINT "drain_sandboxes_drain_id_sandbox_id_pk" PRIMARY KEY("drain_id","sandbox_id"),
	CONSTRAINT "drain_sandboxes_outcome" CHECK ("outcome" IN ('moved', 'released', 'returned', 'gone'))
);
--> statement-breakpoint
CREATE TABLE "drains" (
	"id" integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "drains_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 2147483647 START WITH 1 CACHE 1),
	"host_id" text NOT NULL,
	"status" text NOT NULL,
	"ends_as" text,
	"max_parallel" integer NOT NULL,
	"max_bytes_per_second" bigint,
	"deadline_at" timestamp (3) with time zone,
	"requested_by" text NOT NULL,
	"started_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	"ended_at" timestamp (3) with time zone,
	CONSTRAINT "drains_status" CHECK ("status" IN ('active', 'undoing', 'done', 'aborted', 'expired')),
	CONSTRAINT "drains_max_parallel" CHECK ("drains"."max_parallel" >= 1)
);
--> statement-breakpoint
CREATE TABLE "host_events" (
	"id" bigserial PRIMARY KEY NOT NULL,
	"host_id" text NOT NULL,
	"fact" text NOT NULL,
	"from_state" text,
	"to_state" text NOT NULL,
	"requested_by" text NOT NULL,
	"cause" jsonb,
	"occurred_at" timestamp (3) with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "host_findings" (
	"host_id" text NOT NULL,
	"sandbox_id" text NOT NULL,
	"kind" text NOT NULL,
	"message" text NOT NULL,
	"epoch" integer NOT NULL,
	"times_seen" integer DEFAULT 1 NOT NULL,
	"first_seen_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	"last_seen_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	"reported_at" timestamp (3) with time zone,
	"quarantined" boolean DEFAULT false NOT NULL,
	"told_at" timestamp (3) with time zone,
	"discard_requested_by" text,
	CONSTRAINT "host_findings_host_id_sandbox_id_pk" PRIMARY KEY("host_id","sandbox_id"),
	CONSTRAINT "host_findings_kind" CHECK ("kind" IN ('unknown', 'stale', 'missing'))
);
--> statement-breakpoint
CREATE TABLE "host_inventory_parts" (
	"host_id" text NOT NULL,
	"digest" text NOT NULL,
	"first_sandbox_id" text NOT NULL,
	"entries" jsonb NOT NULL,
	CONSTRAINT "host_inventory_parts_host_id_digest_first_sandbox_id_pk" PRIMARY KEY("host_id","digest","first_sandbox_id")
);
--> statement-breakpoint
ALTER TABLE "hosts" ADD COLUMN "has_fence" boolean DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE "hosts" ADD COLUMN "vcpu_offered" integer;--> statement-breakpoint
ALTER TABLE "incarnations" ADD COLUMN "on_host_loss" text DEFAULT 'wait' NOT NULL;--> statement-breakpoint
ALTER TABLE "operations" ADD COLUMN "pinned_host_id" text;--> statement-breakpoint
ALTER TABLE "sandboxes" ADD COLUMN "placement_labels" jsonb DEFAULT '{}'::jsonb NOT NULL;--> statement-breakpoint
ALTER TABLE "sandboxes" ADD COLUMN "anti_affinity" text;--> statement-breakpoint
ALTER TABLE "sandboxes" ADD COLUMN "on_host_loss" text DEFAULT 'wait' NOT NULL;--> statement-breakpoint
ALTER TABLE "snapshots" ADD COLUMN "has_memory" boolean DEFAULT true NOT NULL;--> statement-breakpoint
ALTER TABLE "snapshots" ADD COLUMN "store_error" jsonb;--> statement-breakpoint
ALTER TABLE "drain_sandboxes" ADD CONSTRAINT "drain_sandboxes_drain_id_drains_id_fk" FOREIGN KEY ("drain_id") REFERENCES "public"."drains"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "drain_sandboxes" ADD CONSTRAINT "drain_sandboxes_sandbox_id_sandboxes_id_fk" FOREIGN KEY ("sandbox_id") REFERENCES "public"."sandboxes"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "drains" ADD CONSTRAINT "drains_host_id_hosts_id_fk" FOREIGN KEY ("host_id") REFERENCES "public"."hosts"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "host_events" ADD CONSTRAINT "host_events_host_id_hosts_id_fk" FOREIGN KEY ("host_id") REFERENCES "public"."hosts"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "host_findings" ADD CONSTRAINT "host_findings_host_id_hosts_id_fk" FOREIGN KEY ("host_id") REFERENCES "public"."hosts"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "host_inventory_parts" ADD CONSTRAINT "host_inventory_parts_host_id_hosts_id_fk" FOREIGN KEY ("host_id") REFERENCES "public"."hosts"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "drain_sandboxes_open" ON "drain_sandboxes" USING btree ("sandbox_id") WHERE ended_at IS NULL;--> statement-breakpoint
CREATE UNIQUE INDEX "drains_one_at_work" ON "drains" USING btree ("host_id") WHERE status IN ('active', 'undoing');--> statement-breakpoint
CREATE INDEX "drains_host" ON "drains" USING btree ("host_id","id");--> statement-breakpoint
CREATE INDEX "host_events_host" ON "host_events" USING btree ("host_id","id");--> statement-breakpoint
CREATE INDEX "sandboxes_anti_affinity" ON "sandboxes" USING btree ("organization_id","anti_affinity") WHERE anti_affinity IS NOT NULL;--> statement-breakpoint
ALTER TABLE "incarnations" ADD CONSTRAINT "incarnations_on_host_loss" CHECK ("on_host_loss" IN ('wait', 'restore'));--> statement-breakpoint
ALTER TABLE "sandboxes" ADD CONSTRAINT "sandboxes_on_host_loss" CHECK ("on_host_loss" IN ('wait', 'restore'));