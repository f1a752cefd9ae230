-- At once, and in the order in which programs take them: taken one by one, as the statements come, they
-- would be held against somebody who holds one and waits for another.
LOCK TABLE "sandboxes", "operations", "outbox" IN ACCESS EXCLUSIVE MODE;--> statement-breakpoint
CREATE INDEX "sandboxes_running" ON "sandboxes" USING btree ("id") WHERE settled_state = 'running';--> statement-breakpoint
CREATE INDEX "outbox_refused" ON "outbox" USING btree ("id") WHERE refused_because IS NOT NULL;
