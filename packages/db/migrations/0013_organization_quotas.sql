CREATE TABLE "organization_quotas" (
	"organization_id" integer PRIMARY KEY NOT NULL,
	"limits" jsonb NOT NULL,
	"updated_at" timestamp (3) with time zone DEFAULT now() NOT NULL,
	"updated_by" text NOT NULL
);
--> statement-breakpoint
ALTER TABLE "organization_quotas" ADD CONSTRAINT "organization_quotas_organization_id_organizations_id_fk" FOREIGN KEY ("organization_id") REFERENCES "public"."organizations"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "operations_waiting" ON "operations" USING btree ("organization_id") WHERE status = 'waiting';--> statement-breakpoint
CREATE INDEX "operations_creates" ON "operations" USING btree ("organization_id","created_at") WHERE kind = 'create';--> statement-breakpoint
CREATE INDEX "sandboxes_kept" ON "sandboxes" USING btree ("organization_id") WHERE state NOT IN ('deleting', 'deleted');