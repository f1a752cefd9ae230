import { sql } from "drizzle-orm";
import type { AnyPgColumn } from "drizzle-orm/pg-core";

/**
 * Third token of a subject: `intent`, `host`, `sandbox`. Each kind has its own stream, and its
 * messages wait in the outbox only for that stream.
 */
export const kindOfMessage = (subject: AnyPgColumn) => sql<string>`split_part(${subject}, '.', 3)`;
