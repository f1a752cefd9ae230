/**
 * Holds a batch of plans (`apply_plans`, packages/db) of more than one sandbox in the middle of its
 * transaction: it has its locks, and a part of it is written. A trigger of the test's own waits for
 * a lock that the test has. What comes alone is held for a while, so that others come behind it,
 * and goes on.
 */
import { until } from "@torpor/testkit";
import postgres from "postgres";

/** What a batch writes that is to be held. */
export interface BatchKind {
  table: "operations" | "sandbox_events";
  /** Of rows of the table: those that count. */
  where: string;
  /** A query that gives a row as long as what comes alone is held, as others are on their way. */
  whileOthersCome?: string;
}

/** Key of the advisory locks, beside which the product has others; each hold has one of its own. */
let gate = 7_061_000;
const ALONE = 1;
const SEVERAL = 2;

/** What waits for longer than this waits until it is let go, and tries no other way first. */
const HELD_FOR_MS = 250;

export interface HeldBatch {
  /** Resolves once one is held, of two sandboxes or more. */
  isHeld(): Promise<void>;
  /** Whatever is held goes on, and nothing is held from then on. */
  letGo(): Promise<void>;
}

/** Holds what comes from now on. */
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

/** It stays, and holds nothing once the lock is nobody's. */
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
