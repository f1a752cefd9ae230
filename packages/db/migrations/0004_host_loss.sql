ALTER TABLE "hosts" ADD COLUMN "has_fence" boolean DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE "incarnations" ADD COLUMN "on_host_loss" text DEFAULT 'wait' NOT NULL;--> statement-breakpoint
ALTER TABLE "sandboxes" ADD COLUMN "on_host_loss" text DEFAULT 'wait' NOT NULL;--> statement-breakpoint
ALTER TABLE "incarnations" ADD CONSTRAINT "incarnations_on_host_loss" CHECK ("on_host_loss" IN ('wait', 'restore'));--> statement-breakpoint
ALTER TABLE "sandboxes" ADD CONSTRAINT "sandboxes_on_host_loss" CHECK ("on_host_loss" IN ('wait', 'restore'));