CREATE TABLE "host_checks" (
	"host_id" text NOT NULL,
	"sandbox_id" text NOT NULL,
	"version" bigint DEFAULT 0 NOT NULL,
	CONSTRAINT "host_checks_host_id_sandbox_id_pk" PRIMARY KEY("host_id","sandbox_id")
);
--> statement-breakpoint
ALTER TABLE "host_inventory_parts" ADD COLUMN "entry_count" integer;--> statement-breakpoint
ALTER TABLE "hosts" ADD COLUMN "reconciled_inventory" text;--> statement-breakpoint
ALTER TABLE "hosts" ADD COLUMN "reconciled_until" timestamp (3) with time zone;--> statement-breakpoint
CREATE FUNCTION "sandboxes_note_host_checks"() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
	INSERT INTO host_checks (host_id, sandbox_id, version)
	SELECT DISTINCT named.host_id, NEW.id, NEW.generation
	FROM (VALUES (OLD.host_id), (NEW.host_id), (OLD.origin_host_id), (NEW.origin_host_id)) AS named(host_id)
	WHERE named.host_id IS NOT NULL
	ON CONFLICT (host_id, sandbox_id) DO UPDATE SET version = excluded.version;
	RETURN NULL;
END $$;--> statement-breakpoint
CREATE TRIGGER "sandboxes_note_host_checks" AFTER UPDATE OF "host_id", "origin_host_id" ON "sandboxes" FOR EACH ROW
WHEN (OLD.host_id IS DISTINCT FROM NEW.host_id OR OLD.origin_host_id IS DISTINCT FROM NEW.origin_host_id)
EXECUTE FUNCTION "sandboxes_note_host_checks"();
