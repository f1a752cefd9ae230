ALTER TABLE "operations" ADD COLUMN "only_if_idle_for_ms" integer;--> statement-breakpoint
ALTER TABLE "sandboxes" ADD COLUMN "auto_pause_idle_seconds" integer;--> statement-breakpoint
ALTER TABLE "sandboxes" ADD COLUMN "auto_resume" boolean DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE "sandboxes" ADD COLUMN "preview_access" text DEFAULT 'public' NOT NULL;--> statement-breakpoint
ALTER TABLE "sandboxes" ADD COLUMN "last_active_at" timestamp (3) with time zone;--> statement-breakpoint
CREATE INDEX "sandboxes_auto_pause" ON "sandboxes" USING btree ("last_active_at") WHERE auto_pause_idle_seconds IS NOT NULL AND state = 'running';--> statement-breakpoint
ALTER TABLE "sandboxes" ADD CONSTRAINT "sandboxes_preview_access" CHECK ("preview_access" IN ('public', 'token'));