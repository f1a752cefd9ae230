CREATE TABLE "lease_service" (
	"id" integer PRIMARY KEY NOT NULL,
	"answering_since" timestamp (3) with time zone NOT NULL,
	"answered_at" timestamp (3) with time zone NOT NULL,
	CONSTRAINT "lease_service_one_row" CHECK ("lease_service"."id" = 1)
);
--> statement-breakpoint
ALTER TABLE "drain_sandboxes" ADD COLUMN "is_estimate" boolean DEFAULT true NOT NULL;--> statement-breakpoint
ALTER TABLE "drains" ADD COLUMN "measured_bytes" bigint DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "drains" ADD COLUMN "measured_at" timestamp (3) with time zone DEFAULT now() NOT NULL;--> statement-breakpoint
ALTER TABLE "drains" ADD COLUMN "bytes_per_second" double precision;--> statement-breakpoint
ALTER TABLE "incarnations" ADD COLUMN "restore_due_at" timestamp (3) with time zone;--> statement-breakpoint
ALTER TABLE "operations" ADD COLUMN "max_bytes_per_second" bigint;--> statement-breakpoint
ALTER TABLE "operations" ADD COLUMN "fetched_bytes" jsonb;--> statement-breakpoint
ALTER TABLE "sandboxes" ADD COLUMN "origin_host_id" text;--> statement-breakpoint
ALTER TABLE "sandboxes" ADD CONSTRAINT "sandboxes_origin_host_id_hosts_id_fk" FOREIGN KEY ("origin_host_id") REFERENCES "public"."hosts"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "incarnations_restore_due" ON "incarnations" USING btree ("restore_due_at") WHERE restore_due_at IS NOT NULL;--> statement-breakpoint
CREATE INDEX "sandboxes_origin_host" ON "sandboxes" USING btree ("origin_host_id") WHERE origin_host_id IS NOT NULL;