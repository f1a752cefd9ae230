ALTER TABLE "drain_sandboxes" ADD COLUMN "is_estimate" boolean DEFAULT true NOT NULL;--> statement-breakpoint
ALTER TABLE "drains" ADD COLUMN "measured_bytes" bigint DEFAULT 0 NOT NULL;--> statement-breakpoint
ALTER TABLE "drains" ADD COLUMN "measured_at" timestamp (3) with time zone DEFAULT now() NOT NULL;--> statement-breakpoint
ALTER TABLE "drains" ADD COLUMN "bytes_per_second" double precision;--> statement-breakpoint
ALTER TABLE "operations" ADD COLUMN "max_bytes_per_second" bigint;--> statement-breakpoint
ALTER TABLE "operations" ADD COLUMN "fetched_bytes" jsonb;