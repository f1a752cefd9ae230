-- An operation that was refused for now (429) gives its idempotency key back: a request that is
-- repeated with the same key is carried out, as its answer advised. As in 0024 but for that column.
CREATE OR REPLACE FUNCTION "apply_plans"(plans jsonb, waits text) RETURNS jsonb LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  locked text[];
  named jsonb;
  operation_ids text[] := '{}';
  wanted_hosts text[];
  free_hosts text[] := '{}';
  limited int[] := '{}';
  verdicts text[];
  made text[];
  short_hosts text[];
  applied jsonb;
  ids jsonb := '[]';
  waiting jsonb := '{}';
  queued jsonb := '{}';
  occurred_at constant text := to_char(now()::timestamptz(3) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
BEGIN
  IF waits = 'for_hosts' THEN
    PERFORM set_config('lock_timeout', '100ms', true);
  END IF;
  IF waits = 'for_all' THEN
    locked := ARRAY(SELECT id FROM (
      SELECT id FROM sandboxes
      WHERE id = ANY (ARRAY(SELECT p->>'sandboxId' FROM jsonb_array_elements(plans) p))
      ORDER BY id FOR NO KEY UPDATE) s);
  ELSE
    locked := ARRAY(SELECT id FROM (
      SELECT id FROM sandboxes
      WHERE id = ANY (ARRAY(SELECT p->>'sandboxId' FROM jsonb_array_elements(plans) p))
      ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) s);
  END IF;
  named := jsonb_path_query_array(plans,
    '$[*] ? (@.sandboxId == $locked[*])', jsonb_build_object('locked', locked));
  named := jsonb_path_query_array(named, '$[*].operations[*].id')
    || jsonb_path_query_array(named, '$[*].cancels ? (@ != null)')
    || jsonb_path_query_array(named, '$[*].joins.id');
  IF named <> '[]' THEN
    operation_ids := ARRAY(SELECT id FROM (
      SELECT id FROM operations WHERE id = ANY (ARRAY(SELECT jsonb_array_elements_text(named)))
      ORDER BY id FOR NO KEY UPDATE) o);
  END IF;
  IF jsonb_path_exists(plans, '$[*].apart.key') THEN
    PERFORM pg_advisory_xact_lock(key.organization_id, key.hash) FROM (
      SELECT DISTINCT (p->'apart'->>'organizationId')::int AS organization_id,
        hashtext(p->'apart'->>'key') AS hash
      FROM jsonb_array_elements(plans) p WHERE jsonb_typeof(p->'apart') = 'object'
      ORDER BY organization_id, hash) key;
  END IF;
  named := jsonb_path_query_array(plans, '$[*].claims[*].hostId')
    || jsonb_path_query_array(plans, '$[*].placed.id')
    || jsonb_path_query_array(plans, '$[*].lost.hostId');
  IF named <> '[]' THEN
    wanted_hosts := ARRAY(SELECT jsonb_array_elements_text(named));
    IF waits = 'for_none' THEN
      free_hosts := ARRAY(SELECT id FROM (
        SELECT id FROM hosts WHERE id = ANY (wanted_hosts)
        ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) h);
    ELSE
      PERFORM FROM hosts WHERE id = ANY (wanted_hosts) ORDER BY id FOR NO KEY UPDATE;
      free_hosts := wanted_hosts;
    END IF;
  END IF;
  named := jsonb_path_query_array(plans, '$[*].unlimitedOrganizationId ? (@ != null)');
  IF named <> '[]' THEN
    -- A statement of its own: schedulers, which never ask this, may not read the table.
    limited := ARRAY(SELECT organization_id FROM organization_quotas
      WHERE organization_id = ANY (ARRAY(SELECT jsonb_array_elements_text(named)::int)));
  END IF;

  WITH given AS (
    SELECT plan, place, jsonb_typeof(plan->'creates') = 'object' AS creates,
      plan->'queues'->>'organizationId' AS organization_id,
      plan->'queues'->>'idempotencyKey' AS key
    FROM jsonb_array_elements(plans) WITH ORDINALITY AS given(plan, place))
  SELECT array_agg(CASE
      WHEN known.id IS NULL AND NOT creates THEN 'lost_race'
      WHEN key IS NOT NULL AND EXISTS (SELECT FROM operations one
          WHERE one.organization_id = given.organization_id::int AND one.idempotency_key = key)
        THEN 'key_used'
      WHEN (plan->>'unlimitedOrganizationId')::int = ANY (limited) THEN 'has_quotas'
      WHEN key IS NOT NULL AND EXISTS (SELECT FROM given earlier
          WHERE earlier.place < given.place AND earlier.key = given.key
            AND earlier.organization_id = given.organization_id)
        THEN 'key_used'
      WHEN NOT creates AND known.id <> ALL (locked)
        OR jsonb_typeof(plan->'placed') = 'object' AND plan->'placed'->>'id' <> ALL (free_hosts)
        OR jsonb_typeof(plan->'lost') = 'object' AND plan->'lost'->>'hostId' <> ALL (free_hosts)
        OR EXISTS (SELECT FROM jsonb_array_elements(plan->'claims') c
          WHERE c->>'hostId' <> ALL (free_hosts))
        THEN 'locked'
      WHEN known.generation <> (plan->>'generation')::bigint
        OR EXISTS (SELECT FROM given earlier
          WHERE earlier.place < given.place AND earlier.plan->'sandboxId' = given.plan->'sandboxId')
        OR EXISTS (
          SELECT FROM jsonb_array_elements(plan->'operations') o
          WHERE NOT EXISTS (
            SELECT FROM operations one
            WHERE one.id = o->>'id' AND one.sandbox_id = known.id AND o->'from' ? one.status
              AND (one.committed_at IS NULL OR NOT (o->>'isUncommitted')::boolean)
              AND (jsonb_typeof(o->'terms') <> 'object' OR (
                one.only_if_idle_for_ms IS NOT DISTINCT FROM (o->'terms'->>'onlyIfIdleForMs')::int
                AND one.pinned_host_id IS NOT DISTINCT FROM o->'terms'->>'pinnedHostId'
                AND one.max_bytes_per_second
                  IS NOT DISTINCT FROM (o->'terms'->>'maxBytesPerSecond')::bigint
                AND one.deadline_at = (o->'terms'->>'deadlineAt')::timestamptz))))
        -- Whoever changes it has the sandbox's row locked.
        OR jsonb_typeof(plan->'dueRestore') = 'number' AND NOT EXISTS (
          SELECT FROM incarnations one
          WHERE one.sandbox_id = known.id AND one.epoch = (plan->>'dueRestore')::int
            AND one.restore_due_at < now())
        OR jsonb_typeof(plan->'open') = 'object' AND plan->'open' <> (
          SELECT coalesce(jsonb_object_agg(id, jsonb_build_array(status, requested_by,
            only_if_idle_for_ms, pinned_host_id, max_bytes_per_second)), '{}')
          FROM operations
          WHERE sandbox_id = known.id AND status IN ('waiting', 'executing', 'outcome_unknown'))
        THEN 'lost_race'
      ELSE 'applied' END ORDER BY place)
    INTO verdicts
    FROM given
    LEFT JOIN LATERAL (
      SELECT id, generation FROM sandboxes WHERE id = plan->>'sandboxId' LIMIT 1) known ON true;

  IF jsonb_path_exists(plans, '$[*] ? (exists(@.placed.id) || exists(@.apart.key)
    || exists(@.lost.hostId) || @.claims[*].vcpu > 0 || @.claims[*].memoryMib > 0 || @.claims[*].diskMib > 0)')
  THEN
    WITH given AS (
      SELECT plan, place, verdicts[place] AS verdict
      FROM jsonb_array_elements(plans) WITH ORDINALITY AS given(plan, place)),
    claimed AS (
      SELECT place, (plan->>'isFact')::boolean AS is_fact, claim.*,
        coalesce(sum(greatest(vcpu, 0)) OVER earlier, 0) AS vcpu_before,
        coalesce(sum(greatest("memoryMib", 0)) OVER earlier, 0) AS memory_before,
        coalesce(sum(greatest("diskMib", 0)) OVER earlier, 0) AS disk_before
      FROM given, jsonb_to_recordset(plan->'claims')
        AS claim("hostId" text, vcpu int, "memoryMib" int, "diskMib" int)
      WHERE verdict = 'applied'
      WINDOW earlier AS (PARTITION BY "hostId" ORDER BY place
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)),
    short AS (
      SELECT place, min(claim."hostId") AS host_id
      FROM claimed claim
      LEFT JOIN LATERAL (
        SELECT * FROM hosts WHERE id = claim."hostId" LIMIT 1) host ON true
      WHERE host.id IS NULL
        -- A release is never refused, even on a host whose capacity was lowered below what it carries.
        OR NOT is_fact AND (
          (claim."diskMib" > 0 OR claim."memoryMib" > 0) AND host.state = 'retired'
          OR claim.vcpu > 0 AND vcpu_used + vcpu_before + claim.vcpu > vcpu_capacity
          OR claim."memoryMib" > 0
            AND memory_mib_used + memory_before + claim."memoryMib" > memory_mib_capacity
          OR claim."diskMib" > 0
            AND disk_mib_used + disk_before + claim."diskMib" > disk_mib_capacity)
      GROUP BY place)
    SELECT array_agg(CASE
        WHEN verdict <> 'applied' THEN verdict
        WHEN short.host_id IS NOT NULL THEN 'no_capacity'
        WHEN jsonb_typeof(plan->'placed') = 'object' AND NOT EXISTS (
            SELECT FROM hosts, jsonb_to_record(nullif(plan->'placed', 'null'))
              AS placed(id text, state text, "hasFence" boolean, "registeredAt" timestamptz)
            WHERE hosts.id = plan->'placed'->>'id' AND hosts.state = placed.state
              AND hosts.state IN ('ready', 'cordoned', 'draining')
              AND hosts.has_fence = placed."hasFence" AND hosts.revoked_at IS NULL
              AND hosts.lease_expires_at > now() AND hosts.registered_at = placed."registeredAt")
          OR jsonb_typeof(plan->'lost') = 'object' AND NOT EXISTS (
            SELECT FROM hosts
            WHERE hosts.id = plan->'lost'->>'hostId' AND hosts.state = 'lost' AND hosts.has_fence
              AND hosts.lease_expires_at
                + (plan->'lost'->>'silentForMs')::int * interval '1 millisecond' < now())
          OR jsonb_typeof(plan->'apart') = 'object' AND (EXISTS (
            SELECT FROM sandboxes other
            WHERE other.organization_id = (plan->'apart'->>'organizationId')::int
              AND other.anti_affinity = plan->'apart'->>'key' AND other.id <> plan->>'sandboxId'
              AND other.state NOT IN ('deleting', 'deleted') AND other.host_id IS NOT NULL
              AND plan->'apart'->>'hostId' IN (other.host_id, other.origin_host_id))
            OR EXISTS (SELECT FROM given earlier
              WHERE earlier.place < given.place AND earlier.plan->'apart' = given.plan->'apart'))
          THEN 'overtaken'
        ELSE 'applied' END ORDER BY place),
      array_agg(short.host_id ORDER BY place)
    INTO verdicts, short_hosts
    FROM given LEFT JOIN short USING (place);
  END IF;

  IF jsonb_path_exists(plans, '$[*].creates.id') THEN
    WITH inserted AS (
      -- By name: what a later migration adds gets its default, also from programs that know
      -- nothing of it.
      INSERT INTO sandboxes (
          id, organization_id, template_id, template_name, image_sha256, state, settled_state,
          generation, epoch, op_seq, applied_epoch, applied_op_seq, applied_revision, host_id,
          origin_host_id, holds_memory, region, vcpu, memory_mib, disk_mib, internet_access,
          env_vars, env_vars_sealed, metadata, timeout_seconds, expires_at, timeout_left_ms,
          auto_pause_idle_seconds, auto_resume, placement_labels, anti_affinity, preview_access,
          preview_host, on_host_loss, last_active_at, edge_address, token_generation, error,
          condition, last_seq, started_at, ended_at)
        SELECT
          row.id, row.organization_id, row.template_id, row.template_name, row.image_sha256,
          row.state, row.settled_state, row.generation, row.epoch, row.op_seq, row.applied_epoch,
          row.applied_op_seq, row.applied_revision, row.host_id, row.origin_host_id,
          row.holds_memory, row.region, row.vcpu, row.memory_mib, row.disk_mib,
          row.internet_access, row.env_vars, row.env_vars_sealed, row.metadata,
          row.timeout_seconds, row.expires_at, row.timeout_left_ms, row.auto_pause_idle_seconds,
          row.auto_resume, row.placement_labels, row.anti_affinity, row.preview_access,
          row.preview_host, row.on_host_loss, row.last_active_at, row.edge_address,
          row.token_generation, row.error, row.condition, row.last_seq, row.started_at,
          row.ended_at
        FROM jsonb_array_elements(plans) WITH ORDINALITY AS given(plan, place),
          jsonb_populate_record(NULL::sandboxes,
            nullif(plan->'creates', 'null') || (plan->'after')) row
        WHERE jsonb_typeof(plan->'creates') = 'object' AND verdicts[place] = 'applied'
        ON CONFLICT (edge_address) WHERE state <> 'deleted' DO NOTHING
        RETURNING id)
      SELECT array_agg(id) INTO made FROM inserted;
    verdicts := ARRAY(SELECT CASE
        WHEN verdicts[place] = 'applied' AND jsonb_typeof(plan->'creates') = 'object'
          AND plan->>'sandboxId' <> ALL (coalesce(made, '{}'))
          THEN 'address_taken'
        ELSE verdicts[place] END
      FROM jsonb_array_elements(plans) WITH ORDINALITY AS given(plan, place)
      ORDER BY place);
  END IF;

  IF 'applied' = ALL (verdicts) THEN
    applied := plans;
  ELSE
    applied := (SELECT coalesce(jsonb_agg(plan ORDER BY place), '[]')
      FROM jsonb_array_elements(plans) WITH ORDINALITY AS given(plan, place)
      WHERE verdicts[place] = 'applied');
  END IF;

  -- What only queues an operation that waits leaves the row as it is.
  IF jsonb_path_exists(applied, '$[*] ? (@.creates == null).events[*]') THEN
    UPDATE sandboxes SET
      state = later.state, settled_state = later.settled_state, generation = later.generation,
      last_seq = later.last_seq, updated_at = now(), epoch = later.epoch, op_seq = later.op_seq,
      applied_epoch = later.applied_epoch, applied_op_seq = later.applied_op_seq,
      applied_revision = later.applied_revision, host_id = later.host_id,
      origin_host_id = later.origin_host_id, holds_memory = later.holds_memory,
      metadata = later.metadata, timeout_seconds = later.timeout_seconds,
      expires_at = later.expires_at, timeout_left_ms = later.timeout_left_ms,
      auto_pause_idle_seconds = later.auto_pause_idle_seconds, auto_resume = later.auto_resume,
      preview_access = later.preview_access, preview_host = later.preview_host,
      on_host_loss = later.on_host_loss, last_active_at = later.last_active_at,
      token_generation = later.token_generation, error = later.error, condition = later.condition,
      started_at = later.started_at, ended_at = later.ended_at,
      env_vars = CASE WHEN clears THEN '{}' ELSE later.env_vars END,
      env_vars_sealed = CASE WHEN NOT clears THEN later.env_vars_sealed END
      FROM (
        SELECT later.*, (plan->>'clearsEnvironment')::boolean AS clears
        FROM jsonb_array_elements(applied) plan,
          LATERAL (
            SELECT one FROM sandboxes one WHERE one.id = plan->>'sandboxId' LIMIT 1) known,
          LATERAL jsonb_populate_record(known.one, plan->'after') later) later
      WHERE sandboxes.id = ANY (locked) AND sandboxes.id = later.id
        AND sandboxes.generation <> later.generation;
  END IF;

  IF jsonb_path_exists(applied, '$[*].operations[*]') THEN
    UPDATE operations SET
      status = later.status, host_id = later.host_id, origin_host_id = later.origin_host_id,
      epoch = later.epoch, op_seq = later.op_seq, error = later.error,
      timings_ms = later.timings_ms, started_at = later.started_at,
      idempotency_key = later.idempotency_key,
      ended_at = CASE WHEN ends THEN now() ELSE later.ended_at END
      FROM (
        SELECT later.*, (item->>'ends')::boolean AS ends
        FROM jsonb_array_elements(applied) plan, jsonb_array_elements(plan->'operations') item,
          LATERAL (SELECT one FROM operations one WHERE one.id = item->>'id' LIMIT 1) known,
          LATERAL jsonb_populate_record(known.one, item->'patch') later) later
      WHERE operations.id = ANY (operation_ids) AND operations.id = later.id;
  END IF;

  named := jsonb_path_query_array(applied, '$[*].cancels ? (@ != null)');
  IF named <> '[]' THEN
    UPDATE operations SET cancel_requested_at = coalesce(cancel_requested_at, now())
      WHERE id = ANY (ARRAY(SELECT jsonb_array_elements_text(named)))
        AND status IN ('executing', 'outcome_unknown') AND committed_at IS NULL;
  END IF;

  named := jsonb_path_query_array(applied, '$[*].joins ? (@ != null)');
  IF named <> '[]' THEN
    UPDATE operations SET
      only_if_idle_for_ms = CASE WHEN NOT "liftsBounds" THEN only_if_idle_for_ms END,
      pinned_host_id = CASE WHEN NOT "liftsBounds" THEN pinned_host_id END,
      max_bytes_per_second = CASE WHEN NOT "liftsBounds" THEN max_bytes_per_second END,
      requested_by = coalesce("takenOverBy", requested_by)
      FROM jsonb_to_recordset(named)
        AS joined(id text, "liftsBounds" boolean, "takenOverBy" text)
      WHERE operations.id = ANY (operation_ids) AND operations.id = joined.id;
  END IF;

  IF jsonb_path_exists(applied, '$[*].queues.id') THEN
    WITH inserted AS (
      INSERT INTO operations (id, sandbox_id, organization_id, kind, status, idempotency_key,
          request_sha256, requested_by, only_if_idle_for_ms, pinned_host_id,
          max_bytes_per_second, deadline_at, trace_id, host_id, origin_host_id, epoch, op_seq,
          started_at)
        SELECT id, plan->>'sandboxId', "organizationId", kind,
          CASE WHEN begins->>'hostId' IS NULL THEN 'waiting' ELSE 'executing' END,
          "idempotencyKey", "requestSha256", "requestedBy", "onlyIfIdleForMs", "pinnedHostId",
          "maxBytesPerSecond", now() + "deadlineMs" * interval '1 millisecond', "traceId",
          begins->>'hostId', begins->>'originHostId', (begins->>'epoch')::int,
          (begins->>'opSeq')::int, CASE WHEN begins->>'hostId' IS NOT NULL THEN now() END
        FROM jsonb_array_elements(applied) plan,
          jsonb_to_record(nullif(plan->'queues', 'null')) AS queues(id text,
            "organizationId" int, kind text, "idempotencyKey" text, "requestSha256" text,
            "requestedBy" text, "onlyIfIdleForMs" int, "pinnedHostId" text,
            "maxBytesPerSecond" bigint, "deadlineMs" bigint, "traceId" text, begins jsonb)
        WHERE id IS NOT NULL
        RETURNING *)
      SELECT jsonb_object_agg(sandbox_id, to_jsonb(inserted)) INTO queued FROM inserted;
  END IF;

  IF jsonb_path_exists(applied, '$[*].claims[*]') THEN
    UPDATE hosts SET
      vcpu_used = vcpu_used + claimed.vcpu,
      memory_mib_used = memory_mib_used + claimed.memory,
      disk_mib_used = disk_mib_used + claimed.disk,
      -- What is there counts; what the host offers does again from its next registration on.
      vcpu_capacity = greatest(vcpu_capacity, vcpu_used + claimed.vcpu),
      memory_mib_capacity = greatest(memory_mib_capacity, memory_mib_used + claimed.memory),
      disk_mib_capacity = greatest(disk_mib_capacity, disk_mib_used + claimed.disk)
      FROM (
        SELECT claim."hostId" AS host_id, sum(vcpu) AS vcpu, sum("memoryMib") AS memory,
          sum("diskMib") AS disk
        FROM jsonb_array_elements(applied) plan, jsonb_to_recordset(plan->'claims')
          AS claim("hostId" text, vcpu int, "memoryMib" int, "diskMib" int)
        GROUP BY claim."hostId") claimed
      WHERE hosts.id = ANY (wanted_hosts) AND hosts.id = claimed.host_id;
  END IF;

  IF jsonb_path_exists(applied, '$[*].events[*]') THEN
    INSERT INTO sandbox_events
      (sandbox_id, seq, fact, from_state, to_state, generation, epoch, operation_id, cause)
      SELECT plan->>'sandboxId', seq, fact, "fromState", "toState", event.generation, epoch,
        "operationId", nullif(cause, 'null')
      FROM jsonb_array_elements(applied) plan, jsonb_to_recordset(plan->'events')
        AS event(seq bigint, fact text, "fromState" text, "toState" text, generation bigint,
          epoch int, "operationId" text, cause jsonb);
  END IF;

  -- It is begun by whoever reported what was before it.
  IF jsonb_path_exists(applied, '$[*] ? (@.isFact == true).events[*]') THEN
    SELECT coalesce(jsonb_object_agg(sandbox_id, id), '{}') INTO waiting
      FROM operations WHERE sandbox_id = ANY (locked) AND status = 'waiting';
  END IF;

  IF jsonb_path_exists(applied, '$[*].effects.*') THEN
    PERFORM apply_effects(applied, locked);
  END IF;

  IF jsonb_path_exists(applied, '$[*].messages[*]') THEN
    WITH written AS (
      INSERT INTO outbox (subject, payload, trace_id)
        SELECT m->>'subject',
          CASE WHEN (m->>'isEvent')::boolean
            THEN m->'payload' || jsonb_build_object('occurredAt', occurred_at)
            WHEN m ? 'deadlineMs' THEN m->'payload' || jsonb_build_object('deadlineAt',
              to_char((now()::timestamptz(3) + (m->>'deadlineMs')::bigint * interval '1 millisecond')
                AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
            ELSE m->'payload' END,
          m->>'traceId'
        FROM jsonb_array_elements(applied) WITH ORDINALITY AS given(plan, place),
          jsonb_array_elements(plan->'messages') WITH ORDINALITY AS message(m, at)
        ORDER BY place, at
        RETURNING id)
      SELECT jsonb_agg(id ORDER BY id) INTO ids FROM written;
  END IF;
  RETURN jsonb_build_object('verdicts', verdicts, 'shortHosts', short_hosts, 'outboxIds', ids,
    'occurredAt', occurred_at, 'waiting', waiting, 'queued', queued);
END $$;
