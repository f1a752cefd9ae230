DROP INDEX "sandboxes_kept";--> statement-breakpoint
DROP INDEX "operations_open";--> statement-breakpoint
DROP INDEX "outbox_unpublished";--> statement-breakpoint
DROP INDEX "sandboxes_host";--> statement-breakpoint
DROP INDEX "sandboxes_expiry";--> statement-breakpoint
DROP INDEX "sandboxes_auto_pause";--> statement-breakpoint
CREATE INDEX "host_events_occurred_at" ON "host_events" USING btree ("occurred_at");--> statement-breakpoint
CREATE INDEX "operations_waiting_since" ON "operations" USING btree ("created_at") WHERE status = 'waiting';--> statement-breakpoint
CREATE INDEX "outbox_published" ON "outbox" USING btree ("published_at") WHERE published_at IS NOT NULL;--> statement-breakpoint
CREATE INDEX "sandboxes_listed" ON "sandboxes" USING btree ("organization_id","settled_state","id") WHERE state NOT IN ('deleting', 'deleted');--> statement-breakpoint
CREATE INDEX "sandboxes_region" ON "sandboxes" USING btree ("organization_id","region","id") WHERE state NOT IN ('deleting', 'deleted');--> statement-breakpoint
CREATE INDEX "sandboxes_metadata" ON "sandboxes" USING gin ("metadata" jsonb_path_ops) WHERE state NOT IN ('deleting', 'deleted') AND metadata <> '{}';--> statement-breakpoint
CREATE INDEX "sandboxes_deleting" ON "sandboxes" USING btree ("updated_at") WHERE state = 'deleting';--> statement-breakpoint
CREATE INDEX "sandboxes_paused" ON "sandboxes" USING btree ("updated_at") WHERE state = 'paused';--> statement-breakpoint
CREATE INDEX "sandboxes_restorable" ON "sandboxes" USING btree ("host_id") WHERE on_host_loss = 'restore' AND state IN ('running', 'pausing', 'resuming', 'stopping', 'starting');--> statement-breakpoint
CREATE INDEX "snapshots_unstored" ON "snapshots" USING btree ("sandbox_id") WHERE dropped_at IS NULL AND store_key IS NULL;--> statement-breakpoint
CREATE INDEX "operations_open" ON "operations" USING btree ("deadline_at") WHERE status IN ('waiting', 'executing', 'outcome_unknown') AND committed_at IS NULL;--> statement-breakpoint
CREATE INDEX "outbox_unpublished" ON "outbox" USING btree ("id") WHERE published_at IS NULL AND refused_because IS NULL;--> statement-breakpoint
CREATE INDEX "sandboxes_host" ON "sandboxes" USING btree ("host_id","state") WHERE host_id IS NOT NULL;--> statement-breakpoint
CREATE INDEX "sandboxes_expiry" ON "sandboxes" USING btree ("expires_at") WHERE expires_at IS NOT NULL AND state NOT IN ('deleting', 'deleted');--> statement-breakpoint
CREATE INDEX "sandboxes_auto_pause" ON "sandboxes" USING btree (((last_active_at AT TIME ZONE 'UTC') + auto_pause_idle_seconds * interval '1 second')) WHERE auto_pause_idle_seconds IS NOT NULL AND state = 'running';