CREATE INDEX "sandboxes_running" ON "sandboxes" USING btree ("id") WHERE settled_state = 'running';--> statement-breakpoint
CREATE INDEX "outbox_refused" ON "outbox" USING btree ("id") WHERE refused_because IS NOT NULL;
