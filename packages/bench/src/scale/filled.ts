/** The sandboxes of a filled database, by number: the SQL of fill.ts computes the same ids. */
import { createHash } from "node:crypto";
import { type SandboxId, unverifiedSandboxId } from "@torpor/contracts";

/** The first 10 digits of the first id. */
export const FIRST_SECOND = 1_700_000_000;

export const filledId = (at: number) =>
  unverifiedSandboxId(`${FIRST_SECOND + at}${at.toString(16).padStart(8, "0")}`);

export const manifestOf = (sandboxId: SandboxId, generation: number) =>
  createHash("sha256").update(`${sandboxId} ${generation}`).digest("hex");
