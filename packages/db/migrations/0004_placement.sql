ALTER TABLE "hosts" ADD COLUMN "has_fence" boolean DEFAULT false NOT NULL;--> statement-breakpoint
ALTER TABLE "hosts" ADD COLUMN "vcpu_offered" integer;--> statement-breakpoint
ALTER TABLE "sandboxes" ADD COLUMN "placement_labels" jsonb DEFAULT '{}'::jsonb NOT NULL;--> statement-breakpoint
ALTER TABLE "sandboxes" ADD COLUMN "anti_affinity" text;--> statement-breakpoint
CREATE INDEX "sandboxes_anti_affinity" ON "sandboxes" USING btree ("organization_id","anti_affinity") WHERE anti_affinity IS NOT NULL;