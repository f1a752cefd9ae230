/**
 * Fills a database with paused sandboxes, as the product would have written them: created, run, and
 * paused without a store. The bench hosts report the same sandboxes (host/answers.ts).
 */
import type { Fleet } from "@torpor/fleet";
import type postgres from "postgres";
import { TEMPLATE } from "../control-plane-fleet.ts";
import { FINGERPRINT, SNAPSHOT_BYTES } from "../host/answers.ts";
import { FIRST_SECOND } from "./filled.ts";

const BATCH = 25_000;

export interface FillOptions {
  hosts: number;
  sandboxes: number;
  signal: AbortSignal;
  onProgress: (done: number) => void;
}

/** Requires that every host is registered. */
export async function fill(sql: postgres.Sql, options: FillOptions): Promise<void> {
  const { hosts, sandboxes, signal, onProgress } = options;
  for (let from = 0; from < sandboxes; from += BATCH) {
    signal.throwIfAborted();
    const to = Math.min(sandboxes, from + BATCH);
    await sql.begin(async (tx) => {
      // A crash of the machine loses nothing of value: the database is then filled again.
      await tx.unsafe("SET LOCAL synchronous_commit = off");
      for (const statement of statementsFor(from, to, hosts)) await tx.unsafe(statement);
    });
    onProgress(to);
  }
  // Otherwise both start by themselves during the measurement.
  for (const statement of ["VACUUM ANALYZE", "CHECKPOINT"]) await sql.unsafe(statement);
}

/** The number of a sandbox determines its id, host and edge address. */
function statementsFor(from: number, to: number, hosts: number): string[] {
  return [
    `CREATE TEMP TABLE filled ON COMMIT DROP AS
      SELECT at, (${FIRST_SECOND} + at)::text || lpad(to_hex(at), 8, '0') AS id,
        'bench-' || (1 + at % ${hosts}) AS host_id, now() - interval '30 days' * random() AS made_at,
        'op_' || md5('create ' || at) AS create_id, 'op_' || md5('pause ' || at) AS pause_id,
        organizations.id AS organization_id, templates.id AS template_id, templates.image_sha256,
        templates.vcpu, templates.memory_mib, templates.disk_mib
      FROM generate_series(${from}, ${to - 1}) AS at,
        (SELECT min(id) AS id FROM organizations) AS organizations,
        (SELECT * FROM templates WHERE name = '${TEMPLATE}') AS templates`,
    `INSERT INTO sandboxes (id, organization_id, template_id, template_name, image_sha256, state,
        settled_state, generation, epoch, op_seq, applied_epoch, applied_op_seq, applied_revision,
        host_id, holds_memory, region, vcpu, memory_mib, disk_mib, internet_access, env_vars,
        metadata, edge_address, last_seq, created_at, updated_at, started_at,
        last_active_at)
      SELECT id, organization_id, template_id, '${TEMPLATE}', image_sha256, 'paused',
        'paused', 5, 1, 2, 1, 2, 2,
        host_id, false, 'local', vcpu, memory_mib, disk_mib, true, '{}',
        '{}', '127.' || (64 + at / 65024) || '.' || (at / 254 % 256) || '.' || (1 + at % 254), 5,
        made_at, made_at + interval '1 hour', made_at, made_at FROM filled`,
    `INSERT INTO operations (id, sandbox_id, organization_id, kind, status, requested_by, deadline_at,
        committed_at, host_id, origin_host_id, epoch, op_seq, timings_ms, trace_id, created_at,
        started_at, ended_at)
      SELECT CASE kind WHEN 'create' THEN create_id ELSE pause_id END, id, organization_id, kind,
        'succeeded', 'api-key:1', begun_at + interval '5 min', begun_at, host_id,
        CASE kind WHEN 'pause' THEN host_id END, 1, op_seq,
        '{"restore": 1, "ask_commit": 1, "save_memory": 1}', md5(id), begun_at, begun_at, begun_at
      FROM filled, LATERAL (VALUES ('create', 1, made_at),
        ('pause', 2, made_at + interval '1 hour')) AS operation (kind, op_seq, begun_at)`,
    `INSERT INTO incarnations (sandbox_id, epoch, host_id, assigned_at, started_at, ended_at, cause)
      SELECT id, 1, host_id, made_at, made_at, made_at + interval '1 hour', 'succeeded' FROM filled`,
    `INSERT INTO snapshots (sandbox_id, generation, epoch, host_id, has_memory, size_bytes,
        manifest_sha256, guest_synced, driver_fingerprint, created_at)
      SELECT id, 1, 1, host_id, true, ${SNAPSHOT_BYTES},
        encode(sha256(convert_to(id || ' 1', 'UTF8')), 'hex'), true, '${FINGERPRINT}',
        made_at + interval '1 hour' FROM filled`,
    `INSERT INTO sandbox_events (sandbox_id, seq, fact, from_state, to_state, generation, epoch,
        operation_id, occurred_at)
      SELECT id, seq, fact, from_state, to_state, seq, CASE seq WHEN 1 THEN 0 ELSE 1 END,
        CASE WHEN seq < 4 THEN create_id ELSE pause_id END, made_at
      FROM filled, (VALUES (1, 'accepted', NULL, 'creating'),
        (2, 'create_assigned', 'creating', 'creating'), (3, 'running', 'creating', 'running'),
        (4, 'pause_assigned', 'running', 'pausing'), (5, 'paused', 'pausing', 'paused'))
        AS event (seq, fact, from_state, to_state)`,
    `UPDATE hosts SET disk_mib_used = disk_mib_used + here.disk_mib
      FROM (SELECT host_id, sum(disk_mib)::int AS disk_mib FROM filled GROUP BY host_id) AS here
      WHERE here.host_id = hosts.id`,
  ];
}

/** Disagreements between the hosts and the database: zero, unless this file is wrong. */
export async function countDisagreements(sql: postgres.Sql): Promise<number> {
  const [row] = await sql`SELECT count(*)::int AS findings FROM host_findings`;
  return Number(row?.["findings"]);
}

export const gatewaysOf = ({ state }: Fleet) =>
  state.components.filter(({ role }) => role === "gateway").map(({ name }) => name);
