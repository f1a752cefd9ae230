CREATE TABLE "audit_entries" (
	"id" bigserial PRIMARY KEY NOT NULL,
	"occurred_at" timestamp (3) with time zone NOT NULL,
	"requested_by" text,
	"organization_id" integer,
	"address" text NOT NULL,
	"forwarded_for" text,
	"method" text NOT NULL,
	"path" text NOT NULL,
	"resource" text,
	"status" integer NOT NULL,
	"code" text,
	"request_id" text NOT NULL
);
--> statement-breakpoint
CREATE INDEX "audit_entries_requested_by" ON "audit_entries" USING btree ("requested_by","id");--> statement-breakpoint
CREATE INDEX "audit_entries_organization" ON "audit_entries" USING btree ("organization_id","id");--> statement-breakpoint
CREATE INDEX "audit_entries_occurred_at" ON "audit_entries" USING btree ("occurred_at");--> statement-breakpoint
CREATE FUNCTION "audit_entries_keep"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_OP = 'DELETE' THEN
		IF OLD.occurred_at < now() - interval '365 days' THEN
			RETURN OLD;
		END IF;
	END IF;
	RAISE EXCEPTION 'audit entries are not changed, and are removed after 365 days only';
END $$;--> statement-breakpoint
CREATE TRIGGER "audit_entries_keep_rows" BEFORE UPDATE OR DELETE ON "audit_entries" FOR EACH ROW EXECUTE FUNCTION "audit_entries_keep"();--> statement-breakpoint
CREATE TRIGGER "audit_entries_keep_all" BEFORE TRUNCATE ON "audit_entries" FOR EACH STATEMENT EXECUTE FUNCTION "audit_entries_keep"();
