ALTER TABLE "sandboxes" ADD COLUMN "env_vars_sealed" jsonb;
