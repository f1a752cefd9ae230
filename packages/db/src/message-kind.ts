import { sql } from "drizzle-orm";
import type { AnyPgColumn } from "drizzle-orm/pg-core";

/**
 * The third token of a subject: `intent`, `host`, `sandbox`. Each kind has a stream of its own, and
 * waits in the outbox for that one alone.
 */
export const kindOfMessage = (subject: AnyPgColumn) => sql<string>`split_part(${subject}, '.', 3)`;
