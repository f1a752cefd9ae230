-- The one way to change a sandbox: applies plans (packages/plans), each as a whole or not at all.
--
-- `plans` is an array; the result is one of the same length: of each plan `result` (applied,
-- lost_race, no_capacity, overtaken, locked, has_quotas), of one that was applied `outboxIds` (in the order of its
-- messages), `occurredAt` and `waitingOperationId` (what waits for the sandbox now; whoever accepts
-- another one waits for the lock that this holds), and of one without capacity `hostId`.
--
-- Rows are locked before anything is written, in one order for everybody: sandboxes, operations,
-- anti-affinity keys, hosts, each by its id. What is locked is judged; so nothing has to be taken
-- back, and a plan that is not applied leaves the others alone. What somebody else has locked is
-- waited for by a plan that is alone; in a batch the others would wait as well. `waits` is
-- 'for_all': until the statement's own limit;
-- 'for_hosts': a tenth of a second for hosts, which other batches hold that long, then lock_timeout;
-- 'for_none': sandboxes and hosts that are not free make a plan `locked`. What the tables themselves refuse
-- (a check, a value that is none) fails the whole statement: `applyPlans` then gives each its own.
--
-- No sequential scans: how each statement is carried out is decided once, and kept, maybe while the
-- tables are as good as empty.
CREATE FUNCTION "apply_plans"(plans jsonb, waits text) RETURNS jsonb LANGUAGE plpgsql
SET enable_seqscan = off AS $$
DECLARE
  plan jsonb;
  locked text[];
  wanted_hosts text[];
  held_hosts text[] := '{}';
  before sandboxes;
  later sandboxes;
  item jsonb;
  operation operations;
  effects jsonb;
  short text;
  ids jsonb;
  occurred_at constant text := to_char(now()::timestamptz(3) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
  results jsonb := '[]';
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
  PERFORM FROM operations
    WHERE id = ANY (ARRAY(
      SELECT o->>'id' FROM jsonb_array_elements(plans) p, jsonb_array_elements(p->'operations') o
      WHERE p->>'sandboxId' = ANY (locked)
      UNION SELECT p->>'cancels' FROM jsonb_array_elements(plans) p
      WHERE p->>'sandboxId' = ANY (locked) AND p->>'cancels' IS NOT NULL
      UNION SELECT p->'joins'->>'id' FROM jsonb_array_elements(plans) p
      WHERE p->>'sandboxId' = ANY (locked) AND jsonb_typeof(p->'joins') = 'object'))
    ORDER BY id FOR NO KEY UPDATE;
  PERFORM pg_advisory_xact_lock(key.organization_id, key.hash) FROM (
    SELECT DISTINCT (p->'apart'->>'organizationId')::int AS organization_id,
      hashtext(p->'apart'->>'key') AS hash
    FROM jsonb_array_elements(plans) p WHERE jsonb_typeof(p->'apart') = 'object'
    ORDER BY organization_id, hash) key;
  wanted_hosts := ARRAY(
    SELECT c->>'hostId' FROM jsonb_array_elements(plans) p, jsonb_array_elements(p->'claims') c
    UNION SELECT p->'placed'->>'id' FROM jsonb_array_elements(plans) p
      WHERE jsonb_typeof(p->'placed') = 'object');
  IF waits = 'for_none' THEN
    held_hosts := ARRAY(
      SELECT unnest(wanted_hosts) EXCEPT SELECT id FROM (
        SELECT id FROM hosts WHERE id = ANY (wanted_hosts)
        ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) h);
  ELSIF wanted_hosts <> '{}' THEN
    PERFORM FROM hosts WHERE id = ANY (wanted_hosts) ORDER BY id FOR NO KEY UPDATE;
  END IF;

  FOR plan IN SELECT value FROM jsonb_array_elements(plans) LOOP
    SELECT * INTO before FROM sandboxes WHERE id = plan->>'sandboxId';
    IF before.id IS NOT NULL AND (before.id <> ALL (locked)
      OR plan->'placed'->>'id' = ANY (held_hosts)
      OR EXISTS (SELECT FROM jsonb_array_elements(plan->'claims') c
        WHERE c->>'hostId' = ANY (held_hosts)))
    THEN
      results := results || '{"result": "locked"}'::jsonb;
      CONTINUE;
    END IF;
    IF before.id IS NULL OR before.generation <> (plan->>'generation')::bigint OR EXISTS (
      SELECT FROM jsonb_array_elements(plan->'operations') o
      WHERE NOT EXISTS (
        SELECT FROM operations known
        WHERE known.id = o->>'id' AND known.sandbox_id = before.id AND o->'from' ? known.status
          AND (known.committed_at IS NULL OR NOT (o->>'isUncommitted')::boolean)
          AND (jsonb_typeof(o->'terms') <> 'object' OR (
            known.only_if_idle_for_ms IS NOT DISTINCT FROM (o->'terms'->>'onlyIfIdleForMs')::int
            AND known.pinned_host_id IS NOT DISTINCT FROM o->'terms'->>'pinnedHostId'
            AND known.max_bytes_per_second
              IS NOT DISTINCT FROM (o->'terms'->>'maxBytesPerSecond')::bigint
            AND known.deadline_at = (o->'terms'->>'deadlineAt')::timestamptz))))
      OR jsonb_typeof(plan->'open') = 'object' AND plan->'open' <> (
        SELECT coalesce(jsonb_object_agg(id, jsonb_build_array(status, requested_by,
          only_if_idle_for_ms, pinned_host_id, max_bytes_per_second)), '{}')
        FROM operations
        WHERE sandbox_id = before.id AND status IN ('waiting', 'executing', 'outcome_unknown'))
    THEN
      results := results || '{"result": "lost_race"}'::jsonb;
      CONTINUE;
    END IF;

    IF plan->>'unlimitedOrganizationId' IS NOT NULL THEN
      -- Not one expression: schedulers, which never ask this, may not read the table.
      IF EXISTS (SELECT FROM organization_quotas
        WHERE organization_id = (plan->>'unlimitedOrganizationId')::int)
      THEN
        results := results || '{"result": "has_quotas"}'::jsonb;
        CONTINUE;
      END IF;
    END IF;

    SELECT claim."hostId" INTO short
      FROM jsonb_to_recordset(plan->'claims')
        AS claim("hostId" text, vcpu int, "memoryMib" int, "diskMib" int)
      LEFT JOIN hosts ON hosts.id = claim."hostId"
      WHERE hosts.id IS NULL
        -- A release is never refused, even on a host whose capacity was lowered below what it carries.
        OR NOT (plan->>'isFact')::boolean AND (
          (claim."diskMib" > 0 OR claim."memoryMib" > 0) AND hosts.state = 'retired'
          OR claim.vcpu > 0 AND vcpu_used + claim.vcpu > vcpu_capacity
          OR claim."memoryMib" > 0 AND memory_mib_used + claim."memoryMib" > memory_mib_capacity
          OR claim."diskMib" > 0 AND disk_mib_used + claim."diskMib" > disk_mib_capacity)
      LIMIT 1;
    IF short IS NOT NULL THEN
      results := results || jsonb_build_object('result', 'no_capacity', 'hostId', short);
      CONTINUE;
    END IF;

    IF jsonb_typeof(plan->'placed') = 'object' AND NOT EXISTS (
        SELECT FROM hosts, jsonb_to_record(plan->'placed')
          AS placed(id text, state text, "hasFence" boolean, "registeredAt" timestamptz)
        WHERE hosts.id = placed.id AND hosts.state = placed.state
          AND hosts.state IN ('ready', 'cordoned', 'draining')
          AND hosts.has_fence = placed."hasFence" AND hosts.revoked_at IS NULL
          AND hosts.lease_expires_at > now() AND hosts.registered_at = placed."registeredAt")
      OR jsonb_typeof(plan->'apart') = 'object' AND EXISTS (
        SELECT FROM sandboxes other
        WHERE other.organization_id = (plan->'apart'->>'organizationId')::int
          AND other.anti_affinity = plan->'apart'->>'key' AND other.id <> before.id
          AND other.state NOT IN ('deleting', 'deleted') AND other.host_id IS NOT NULL
          AND plan->'apart'->>'hostId' IN (other.host_id, other.origin_host_id))
    THEN
      results := results || '{"result": "overtaken"}'::jsonb;
      CONTINUE;
    END IF;

    later := jsonb_populate_record(before, plan->'after');
    -- What only queues an operation leaves the row as it is.
    IF later.generation <> before.generation THEN
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
        env_vars = CASE WHEN (plan->>'clearsEnvironment')::boolean THEN '{}' ELSE env_vars END,
        env_vars_sealed = CASE WHEN NOT (plan->>'clearsEnvironment')::boolean THEN env_vars_sealed END
        WHERE id = before.id;
    END IF;

    FOR item IN SELECT value FROM jsonb_array_elements(plan->'operations') LOOP
      SELECT * INTO operation FROM operations WHERE id = item->>'id';
      operation := jsonb_populate_record(operation, item->'patch');
      UPDATE operations SET
        status = operation.status, host_id = operation.host_id,
        origin_host_id = operation.origin_host_id, epoch = operation.epoch,
        op_seq = operation.op_seq, error = operation.error, timings_ms = operation.timings_ms,
        started_at = operation.started_at,
        ended_at = CASE WHEN (item->>'ends')::boolean THEN now() ELSE ended_at END
        WHERE id = operation.id;
    END LOOP;

    IF plan->>'cancels' IS NOT NULL THEN
      UPDATE operations SET cancel_requested_at = coalesce(cancel_requested_at, now())
        WHERE id = plan->>'cancels' AND status IN ('executing', 'outcome_unknown')
          AND committed_at IS NULL;
    END IF;

    IF jsonb_typeof(plan->'joins') = 'object' THEN
      UPDATE operations SET
        only_if_idle_for_ms = CASE WHEN NOT lifts THEN only_if_idle_for_ms END,
        pinned_host_id = CASE WHEN NOT lifts THEN pinned_host_id END,
        max_bytes_per_second = CASE WHEN NOT lifts THEN max_bytes_per_second END,
        requested_by = coalesce(plan->'joins'->>'takenOverBy', requested_by)
        FROM (SELECT (plan->'joins'->>'liftsBounds')::boolean AS lifts) given
        WHERE id = plan->'joins'->>'id';
    END IF;

    IF jsonb_typeof(plan->'queues') = 'object' THEN
      INSERT INTO operations (id, sandbox_id, organization_id, kind, status, idempotency_key,
          request_sha256, requested_by, only_if_idle_for_ms, pinned_host_id,
          max_bytes_per_second, deadline_at, trace_id)
        SELECT id, before.id, "organizationId", kind, 'waiting', "idempotencyKey",
          "requestSha256", "requestedBy", "onlyIfIdleForMs", "pinnedHostId",
          "maxBytesPerSecond", now() + "deadlineMs" * interval '1 millisecond', "traceId"
        FROM jsonb_to_record(plan->'queues') AS queued(id text, "organizationId" int, kind text,
          "idempotencyKey" text, "requestSha256" text, "requestedBy" text,
          "onlyIfIdleForMs" int, "pinnedHostId" text, "maxBytesPerSecond" bigint,
          "deadlineMs" bigint, "traceId" text);
    END IF;

    UPDATE hosts SET
      vcpu_used = vcpu_used + claim.vcpu,
      memory_mib_used = memory_mib_used + claim."memoryMib",
      disk_mib_used = disk_mib_used + claim."diskMib",
      -- What is there counts; what the host offers does again from its next registration on.
      vcpu_capacity = greatest(vcpu_capacity, vcpu_used + claim.vcpu),
      memory_mib_capacity = greatest(memory_mib_capacity, memory_mib_used + claim."memoryMib"),
      disk_mib_capacity = greatest(disk_mib_capacity, disk_mib_used + claim."diskMib")
      FROM jsonb_to_recordset(plan->'claims')
        AS claim("hostId" text, vcpu int, "memoryMib" int, "diskMib" int)
      WHERE hosts.id = claim."hostId";

    INSERT INTO sandbox_events
      (sandbox_id, seq, fact, from_state, to_state, generation, epoch, operation_id, cause)
      SELECT before.id, seq, fact, "fromState", "toState", generation, epoch, "operationId",
        nullif(cause, 'null')
      FROM jsonb_to_recordset(plan->'events') AS event(seq bigint, fact text, "fromState" text,
        "toState" text, generation bigint, epoch int, "operationId" text, cause jsonb);

    effects := plan->'effects';
    IF effects <> '{}' THEN
      PERFORM apply_effects(before.id, effects);
    END IF;

    WITH written AS (
      INSERT INTO outbox (subject, payload, trace_id)
        SELECT m->>'subject',
          CASE WHEN (m->>'isEvent')::boolean
            THEN m->'payload' || jsonb_build_object('occurredAt', occurred_at)
            ELSE m->'payload' END,
          m->>'traceId'
        FROM jsonb_array_elements(plan->'messages') WITH ORDINALITY AS message(m, place)
        ORDER BY place
        RETURNING id)
      SELECT coalesce(jsonb_agg(id ORDER BY id), '[]') INTO ids FROM written;
    results := results || jsonb_build_object(
      'result', 'applied', 'outboxIds', ids, 'occurredAt', occurred_at,
      'waitingOperationId', (
        SELECT id FROM operations WHERE sandbox_id = before.id AND status = 'waiting'),
      'queued', (
        SELECT to_jsonb(queued) FROM operations queued WHERE id = plan->'queues'->>'id'));
  END LOOP;
  RETURN results;
END $$;
--> statement-breakpoint
-- What else becomes of the rows of a sandbox (Effects, packages/plans). Its own row is locked.
CREATE FUNCTION "apply_effects"(sandbox text, effects jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  recorded jsonb := effects->'recordsSnapshot';
  noted jsonb := effects->'notesSnapshot';
BEGIN
  IF effects ? 'beginsRun' THEN
    INSERT INTO incarnations (sandbox_id, epoch, host_id, on_host_loss)
      SELECT sandbox, epoch, "hostId", "onHostLoss"
      FROM jsonb_to_record(effects->'beginsRun')
        AS run(epoch int, "hostId" text, "onHostLoss" text);
  END IF;
  IF noted IS NOT NULL THEN
    UPDATE snapshots SET
      store_key = noted->>'storeKey', store_error = nullif(noted->'storeError', 'null')
      WHERE sandbox_id = sandbox AND generation = (noted->>'generation')::int
        AND manifest_sha256 = noted->>'manifestSha256' AND store_key IS NULL;
  END IF;
  IF recorded IS NOT NULL THEN
    -- One of the same generation with another manifest is another snapshot: the one before was of a
    -- run that is not this sandbox's past any more.
    INSERT INTO snapshots AS known
      (sandbox_id, generation, epoch, host_id, has_memory, store_key, store_error, size_bytes,
        manifest_sha256, guest_synced, driver_fingerprint)
      SELECT sandbox, generation, epoch, "hostId", "hasMemory", "storeKey",
        nullif("storeError", 'null'), "sizeBytes", "manifestSha256", "guestSynced",
        "driverFingerprint"
      FROM jsonb_to_record(recorded) AS snapshot(generation int, epoch int, "hostId" text,
        "hasMemory" boolean, "storeKey" text, "storeError" jsonb, "sizeBytes" bigint,
        "manifestSha256" text, "guestSynced" boolean, "driverFingerprint" text)
      ON CONFLICT (sandbox_id, generation) DO UPDATE SET
        epoch = excluded.epoch, host_id = excluded.host_id, has_memory = excluded.has_memory,
        store_key = CASE WHEN known.manifest_sha256 = excluded.manifest_sha256
          THEN coalesce(excluded.store_key, known.store_key) ELSE excluded.store_key END,
        store_error = excluded.store_error, size_bytes = excluded.size_bytes,
        manifest_sha256 = excluded.manifest_sha256, guest_synced = excluded.guest_synced,
        driver_fingerprint = excluded.driver_fingerprint,
        dropped_at = CASE WHEN known.manifest_sha256 = excluded.manifest_sha256
          THEN known.dropped_at END;
    UPDATE snapshots SET dropped_at = now()
      WHERE sandbox_id = sandbox AND dropped_at IS NULL
        AND generation < (recorded->>'generation')::int;
    -- Dropped ones beyond the newest 200 go, but for the newest that is stored: a lost run is
    -- restored from it.
    DELETE FROM snapshots
      WHERE sandbox_id = sandbox AND dropped_at IS NOT NULL
        AND generation <= (SELECT generation FROM snapshots WHERE sandbox_id = sandbox
          ORDER BY generation DESC OFFSET 200 LIMIT 1)
        AND generation IS DISTINCT FROM (SELECT max(generation) FROM snapshots
          WHERE sandbox_id = sandbox AND store_key IS NOT NULL);
  END IF;
  IF (effects->>'dropsSnapshots')::boolean THEN
    UPDATE snapshots SET dropped_at = now() WHERE sandbox_id = sandbox AND dropped_at IS NULL;
  END IF;
  IF (effects->>'forgetsRestore')::boolean THEN
    UPDATE incarnations SET restore_due_at = NULL
      WHERE sandbox_id = sandbox AND restore_due_at IS NOT NULL;
  END IF;
  IF (effects->>'keepsPaused')::boolean THEN
    UPDATE drain_sandboxes SET owes_resume = false
      WHERE sandbox_id = sandbox AND ended_at IS NULL AND owes_resume;
  END IF;
  IF effects ? 'endsRun' THEN
    UPDATE incarnations SET ended_at = now(), cause = effects->'endsRun'->>'cause'
      WHERE sandbox_id = sandbox AND epoch = (effects->'endsRun'->>'epoch')::int
        AND ended_at IS NULL;
  END IF;
END $$;
--> statement-breakpoint
-- Lets operations pass their point of no return, those that still may (commitOperations, packages/db).
-- Returns the ids of those that have.
CREATE FUNCTION "commit_operations"(asked jsonb) RETURNS jsonb LANGUAGE plpgsql
SET enable_seqscan = off AS $$
DECLARE
  one record;
  committed jsonb := '[]';
BEGIN
  -- One that somebody holds for long is asked for again by itself (commitOperation).
  PERFORM set_config('lock_timeout', '1s', true);
  FOR one IN SELECT * FROM jsonb_to_recordset(asked)
    AS asked(id text, "sandboxId" text, "hostId" text, epoch int, "opSeq" int) ORDER BY id
  LOOP
    UPDATE operations SET committed_at = coalesce(committed_at, now())
      WHERE id = one.id AND sandbox_id = one."sandboxId" AND host_id = one."hostId"
        AND epoch = one.epoch AND op_seq = one."opSeq"
        AND status IN ('executing', 'outcome_unknown')
        AND (committed_at IS NOT NULL OR (deadline_at > now() AND cancel_requested_at IS NULL));
    IF FOUND THEN
      UPDATE incarnations SET started_at = now()
        WHERE sandbox_id = one."sandboxId" AND epoch = one.epoch AND started_at IS NULL;
      committed := committed || to_jsonb(one.id);
    END IF;
  END LOOP;
  RETURN committed;
END $$;
--> statement-breakpoint
CREATE FUNCTION "mark_published"(ids jsonb) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off AS $$
BEGIN
  UPDATE outbox SET published_at = now()
    WHERE id = ANY (ARRAY(SELECT value::bigint FROM jsonb_array_elements_text(ids)));
END $$;
