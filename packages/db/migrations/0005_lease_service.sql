CREATE TABLE "lease_service" (
	"id" integer PRIMARY KEY NOT NULL,
	"answering_since" timestamp (3) with time zone NOT NULL,
	"answered_at" timestamp (3) with time zone NOT NULL,
	CONSTRAINT "lease_service_one_row" CHECK ("lease_service"."id" = 1)
);
