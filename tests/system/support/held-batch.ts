/**
 * Holds a batch of plans (`apply_plans`, packages/db) of more than one sandbox in the middle of its
 * transaction: the batch has its locks, and a part of it is written. A trigger of the test waits
 * for a lock that the test holds. A batch of one sandbox is held for a while, so that others queue
 * up behind it, and then continues.
 */
import { until } from "@torpor/testkit";
import postgres from "postgres";

/** The writes by which a batch is recognized. */
export interface BatchKind {
  table: "operations" | "sandbox_events";
  /** SQL condition for the rows of the table that count. */
  where: string;
  /**
   * SQL query that returns a row while more sandboxes are on their way. Until it returns none, a
   * batch of one sandbox stays held.
   */
  whileOthersCome?: string;
}

/** Key of the advisory locks. The product uses other keys; each hold has a key of its own. */
let gate = 7_061_000;
const ALONE = 1;
const SEVERAL = 2;

/**
 * Longer than the lock timeout of `apply_plans` (100 ms), after which a batch tries another way. A
 * longer wait lasts until the lock is released.
 */
const HELD_FOR_MS = 250;

export interface HeldBatch {
  /** Resolves once a batch of two sandboxes or more is held. */
  isHeld(): Promise<void>;
  /** Lets every held batch continue; no batch is held from then on. */
  letGo(): Promise<void>;
}

/** Holds batches that come from now on. */
export async function holdBatch(databaseUrl: string, kind: BatchKind): Promise<HeldBatch> {
  gate += 1;
  const key = gate;
  const [holder, watcher] = [0, 1].map(() => postgres(databaseUrl, { max: 1, onnotice: () => {} }));
  if (holder === undefined || watcher === undefined) throw new Error("no clients");
  await holder`SELECT pg_advisory_lock(${key}::int, ${ALONE}), pg_advisory_lock(${key}::int, ${SEVERAL})`;
  await watcher.unsafe(triggerOf(kind, key));
  const isWaitedFor = async (what: number) => {
    const waiting = await watcher`
      SELECT FROM pg_locks
      WHERE locktype = 'advisory' AND classid = ${key} AND objid = ${what} AND NOT granted
        AND waitstart < clock_timestamp() - ${HELD_FOR_MS} * interval '1 millisecond'`;
    return waiting.length > 0;
  };
  const othersCome = async () =>
    kind.whileOthersCome !== undefined && (await watcher.unsafe(kind.whileOthersCome)).length > 0;
  return {
    isHeld: async () => {
      await until("a batch of several sandboxes is held", async () => {
        if (await isWaitedFor(SEVERAL)) return true;
        if (!(await isWaitedFor(ALONE)) || (await othersCome())) return false;
        await holder`SELECT pg_advisory_unlock(${key}::int, ${ALONE})`;
        await holder`SELECT pg_advisory_lock(${key}::int, ${ALONE})`;
        return false;
      });
    },
    letGo: async () => {
      await Promise.all([holder, watcher].map((client) => client.end({ timeout: 0 })));
    },
  };
}

/** The trigger stays, and holds nothing once the lock is free. */
const triggerOf = ({ table, where }: BatchKind, key: number) => `
  CREATE FUNCTION hold_batch_${key}() RETURNS trigger LANGUAGE plpgsql AS $$
  DECLARE
    members constant int := (SELECT count(DISTINCT sandbox_id) FROM added WHERE ${where});
  BEGIN
    IF members > 0 THEN
      PERFORM pg_advisory_xact_lock_shared(${key}, CASE members WHEN 1 THEN ${ALONE} ELSE ${SEVERAL} END);
    END IF;
    RETURN NULL;
  END $$;
  CREATE TRIGGER hold_batch_${key} AFTER INSERT ON ${table} REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION hold_batch_${key}()`;
