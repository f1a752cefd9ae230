ALTER TABLE "hosts" ADD COLUMN "restorable_fingerprints" jsonb DEFAULT '[]'::jsonb NOT NULL;--> statement-breakpoint
UPDATE "hosts" SET "restorable_fingerprints" = jsonb_build_array("driver_fingerprint");
