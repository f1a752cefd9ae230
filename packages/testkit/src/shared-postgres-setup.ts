/**
 * Runs once before the test files of a project whose files share a Postgres, and ends the server
 * after them.
 */
import type { TestProject } from "vitest/node";
import { type PostgresPlace, startSharedPostgres } from "./postgres.ts";

declare module "vitest" {
  interface ProvidedContext {
    sharedPostgres: PostgresPlace;
  }
}

export default async function setUp(project: TestProject): Promise<() => Promise<void>> {
  const server = await startSharedPostgres();
  project.provide("sharedPostgres", server.place);
  return async () => await server[Symbol.asyncDispose]();
}
