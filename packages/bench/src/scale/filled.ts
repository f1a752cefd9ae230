/** The sandboxes that a database is filled with, by number: the SQL of fill.ts makes the same. */
import { createHash } from "node:crypto";

/** The 10 digits that the id of the first begins with. */
export const FIRST_SECOND = 1_700_000_000;

export const filledId = (at: number) => `${FIRST_SECOND + at}${at.toString(16).padStart(8, "0")}`;

export const manifestOf = (sandboxId: string, generation: number) =>
  createHash("sha256").update(`${sandboxId} ${generation}`).digest("hex");
