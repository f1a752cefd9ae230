/**
 * A database as a fleet of 200,000 sandboxes leaves it: most sandboxes are paused, a few are
 * active, and each kind of work of the reconcilers exists.
 */
import { unverifiedSandboxId } from "@torpor/contracts";
import type postgres from "postgres";

export const SANDBOXES = 200_000;
export const HOSTS = 20;
const IMAGE = "a".repeat(64);

export const idOf = (at: number) => unverifiedSandboxId(`1763309903${String(at).padStart(8, "0")}`);
const ID = "'1763309903' || lpad(at::text, 8, '0')";
/**
 * Half of the sandboxes are of the given organization, the others of 25 more. Of a hundred
 * sandboxes, 3 run, 2 are being deleted or deleted, 1 is stopped, and 94 are paused.
 */
const STATE = `CASE WHEN at % 100 < 3 THEN 'running' WHEN at % 100 = 3 THEN 'deleted' WHEN at % 100 = 4 AND at % 1000 = 4 THEN 'deleting'
  WHEN at % 100 = 4 THEN 'deleted' WHEN at % 100 = 5 THEN 'stopped' ELSE 'paused' END`;

export async function fillDatabase(sql: postgres.Sql, organizationId: number): Promise<void> {
  await sql.begin(async (tx) => {
    // Foreign keys are right by construction, so they are not checked.
    await tx.unsafe("SET LOCAL session_replication_role = replica");
    // Indexes are built at the end: updates row by row take several times as long.
    const indexes = await tx`SELECT indexname, indexdef FROM pg_indexes
      WHERE schemaname = 'public' AND indexname NOT IN (SELECT conname FROM pg_constraint)`;
    for (const { indexname } of indexes) await tx.unsafe(`DROP INDEX ${indexname as string}`);
    await tx.unsafe(
      `INSERT INTO organizations (name) SELECT 'other-' || at FROM generate_series(1, 50) at`,
    );
    await fillHosts(tx);
    const many = (text: string) =>
      tx.unsafe(`${text} FROM generate_series(0, ${SANDBOXES - 1}) at`);
    await many(`INSERT INTO sandboxes (id, organization_id, template_id, template_name, image_sha256, state, settled_state, generation, epoch, op_seq,
        applied_epoch, applied_op_seq, applied_revision, host_id, holds_memory, region, vcpu, memory_mib, disk_mib, internet_access, env_vars, metadata,
        edge_address, last_seq, expires_at, auto_pause_idle_seconds, last_active_at, on_host_loss, updated_at)
      SELECT ${ID}, CASE WHEN at % 2 = 0 THEN ${organizationId} ELSE ${organizationId} + 1 + at % 50 END, 't', 't', '${IMAGE}', ${STATE},
        CASE WHEN at % 100 < 3 THEN 'running' WHEN at % 100 = 5 THEN 'stopped' ELSE 'paused' END, 5, 1, 2, 1, 2, 2,
        CASE WHEN ${STATE} = 'deleted' THEN NULL ELSE 'host-' || at % ${HOSTS} END, at % 100 < 3, CASE WHEN at % 1000 = 7 THEN 'far' ELSE 'local' END,
        1, 64, 16, false, '{}', CASE WHEN at % 500 = 0 THEN jsonb_build_object('app', 'a' || at % 1000) ELSE '{}' END, '10.' || at, 5,
        CASE WHEN at % 100 = 3 THEN now() - interval '1 day' WHEN at % 10 = 0 THEN now() + interval '1 day' END,
        CASE WHEN at % 3 = 0 THEN 600 END, now() - interval '1 minute', CASE WHEN at % 20 = 0 THEN 'restore' ELSE 'wait' END, now() - interval '1 hour'`);
    await many(`INSERT INTO operations (id, sandbox_id, organization_id, kind, status, requested_by, deadline_at, committed_at, ended_at, created_at)
      SELECT 'op_' || md5(at::text), ${ID}, ${organizationId}, 'pause', 'succeeded', 'test', now(), now(), now(), now() - interval '2 hours'`);
    await many(`INSERT INTO incarnations (sandbox_id, epoch, host_id, started_at, ended_at, on_host_loss)
      SELECT ${ID}, 1, 'host-' || at % ${HOSTS}, now(), CASE WHEN at % 100 < 3 THEN NULL ELSE now() END, 'wait'`);
    await many(`INSERT INTO snapshots (sandbox_id, generation, epoch, host_id, store_key, size_bytes, manifest_sha256, guest_synced, driver_fingerprint, dropped_at)
      SELECT ${ID}, 1, 1, 'host-' || at % ${HOSTS}, CASE WHEN at % 1000 = 17 THEN NULL ELSE 'x' END, 1, md5(at::text), true, 'scripted/1',
        CASE WHEN at % 100 < 3 THEN now() END`);
    await many(
      `INSERT INTO sandbox_events (sandbox_id, seq, fact, to_state, generation, epoch) SELECT ${ID}, 5, 'paused', 'paused', 5, 1`,
    );
    await many(
      `INSERT INTO outbox (subject, payload, created_at, published_at) SELECT 's', '{}', now() - interval '30 minutes', now() - interval '30 minutes'`,
    );
    await many(
      `INSERT INTO host_events (host_id, fact, to_state, requested_by) SELECT 'host-' || at % ${HOSTS}, 'registered', 'ready', 'host:x'`,
    );
    await many(`INSERT INTO audit_entries (occurred_at, requested_by, organization_id, address, method, path, status, request_id)
      SELECT now(), 'api-key:' || at % 100, ${organizationId}, '::1', 'GET', '/', 200, at::text`);
    for (const { indexdef } of indexes) await tx.unsafe(indexdef as string);
  });
  await makeWork(sql, organizationId);
  await sql.unsafe("ANALYZE");
}

async function fillHosts(tx: postgres.TransactionSql): Promise<void> {
  await tx.unsafe(`INSERT INTO hosts (id, state, region, data_plane_url, labels, driver, driver_fingerprint, agent_version, image_sha256s, has_fence,
      vcpu_offered, vcpu_capacity, memory_mib_capacity, disk_mib_capacity, vcpu_used, memory_mib_used, disk_mib_used, lease_expires_at, last_beat_at)
    SELECT 'host-' || at, 'ready', 'local', 'http://127.0.0.1', '{}', 'scripted', 'scripted/1', '1', '["${IMAGE}"]', true,
      100000, 100000, 100000000, 100000000, 1000, 1000000, 1000000, now() + interval '1 hour', now()
    FROM generate_series(0, ${HOSTS - 1}) at`);
}

/** Makes some work of each kind. */
async function makeWork(sql: postgres.Sql, organizationId: number): Promise<void> {
  const operation = (at: number, kind: string, status: string, facts: string) =>
    sql.unsafe(`INSERT INTO operations (id, sandbox_id, organization_id, kind, status, requested_by, host_id, origin_host_id, committed_at, deadline_at)
      SELECT 'op_' || md5('work-' || ${at}), '${idOf(at)}', ${organizationId}, '${kind}', '${status}', 'test', ${facts}`);
  const soon = "now() + interval '1 hour'";
  await operation(106, "resume", "waiting", `NULL, NULL, NULL, ${soon}`);
  await operation(108, "resume", "executing", `'host-8', 'host-8', NULL, ${soon}`);
  await operation(110, "resume", "executing", `'host-10', 'host-10', NULL, now()`);
  await operation(119, "resume", "executing", `'host-19', 'host-19', now(), ${soon}`);
  await sql`UPDATE hosts SET state = 'lost', state_before_lost = 'ready', lease_expires_at = now() - interval '1 hour' WHERE id = 'host-19'`;
  await sql`UPDATE hosts SET state = 'draining' WHERE id = 'host-18'`;
  await sql`INSERT INTO drains (host_id, status, max_parallel, requested_by) VALUES ('host-18', 'active', 1, 'test')`;
  await sql`UPDATE sandboxes SET expires_at = now() WHERE id = ${idOf(206)}`;
  await sql`UPDATE incarnations SET restore_due_at = now() WHERE sandbox_id = ${idOf(306)}`;
  await sql`UPDATE sandboxes SET last_active_at = now() - interval '1 hour' WHERE id = ${idOf(1200)}`;
  await sql`UPDATE outbox SET published_at = NULL WHERE id IN (SELECT id FROM outbox LIMIT 3)`;
  await sql`INSERT INTO outbox (subject, payload, refused_because)
    SELECT 's', jsonb_build_object('type', 'intent', 'operationId', id), 'too large' FROM operations WHERE status = 'waiting' LIMIT 1`;
  await sql`UPDATE outbox SET published_at = now() - interval '1 day' WHERE id IN (SELECT id FROM outbox WHERE published_at IS NOT NULL LIMIT 3)`;
}
