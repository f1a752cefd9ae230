ALTER TABLE "snapshots" ADD COLUMN "has_memory" boolean DEFAULT true NOT NULL;--> statement-breakpoint
ALTER TABLE "snapshots" ADD COLUMN "store_error" jsonb;