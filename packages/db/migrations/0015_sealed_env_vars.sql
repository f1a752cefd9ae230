ALTER TABLE "sandboxes" ADD COLUMN "env_vars_sealed" jsonb;--> statement-breakpoint
-- Nobody needs those of deleted sandboxes; from now on they go with the delete.
UPDATE "sandboxes" SET "env_vars" = '{}' WHERE "state" IN ('deleting', 'deleted') AND "env_vars" <> '{}';
