/**
 * Copy rate of a drain: measured every few seconds, in any scheduler, over about the last half
 * minute.
 */
import { type DrainMeasure, type DrainRow, noteDrainMeasure, readDrainBytes } from "@torpor/db";
import type { Deps } from "../deps.ts";

const EVERY_MS = 2_000;
/** Age at which a measurement counts a third. */
const MEMORY_MS = 30_000;

/**
 * Includes the time that pauses and resumes take, in which nothing is copied: a move consists of
 * them too. What a failed copy loses and copies again is not counted twice. Pure.
 */
export function measured(
  before: DrainMeasure,
  { bytes, at }: { bytes: number; at: Date },
): DrainMeasure {
  const elapsedMs = at.getTime() - before.measuredAt.getTime();
  const grown = Math.max(0, bytes - before.measuredBytes);
  if (elapsedMs <= 0 || (before.bytesPerSecond === null && grown === 0)) return before;
  const now = (grown * 1000) / elapsedMs;
  const weight = 1 - Math.exp(-elapsedMs / MEMORY_MS);
  const bytesPerSecond =
    before.bytesPerSecond === null
      ? now
      : before.bytesPerSecond + weight * (now - before.bytesPerSecond);
  return { measuredBytes: before.measuredBytes + grown, measuredAt: at, bytesPerSecond };
}

export async function measureDrain({ db }: Pick<Deps, "db">, drain: DrainRow): Promise<void> {
  const seen = await readDrainBytes(db, drain.id);
  if (seen.at.getTime() - drain.measuredAt.getTime() < EVERY_MS) return;
  const measure = measured(drain, seen);
  if (measure !== drain) await noteDrainMeasure(db, drain, measure);
}
