/** The sandboxes of a filled database, by number: the SQL of fill.ts computes the same ids. */
import { createHash } from "node:crypto";

/** The first 10 digits of the first id. */
export const FIRST_SECOND = 1_700_000_000;

export const filledId = (at: number) => `${FIRST_SECOND + at}${at.toString(16).padStart(8, "0")}`;

export const manifestOf = (sandboxId: string, generation: number) =>
  createHash("sha256").update(`${sandboxId} ${generation}`).digest("hex");
