import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import { pingDatabase } from "@torpor/db";
import { withTimeLimit } from "@torpor/service";
import type { Dependencies } from "../deps.ts";
import { HealthReply } from "../schemas.ts";

const PING_LIMIT_MS = 1_000;

/** Without a key, and always 200: the process answers. `degraded` says that a part it needs does not. */
export const healthRoutes: FastifyPluginAsyncTypebox<{ deps: Dependencies }> = async (app, { deps }) => {
  app.get("/health", { schema: { tags: ["health"], security: [], response: { 200: HealthReply } } }, async (request) => {
    const hasDatabase = await answersInTime(pingDatabase(deps.db));
    const hasBus = deps.busConnected();
    return {
      status: hasDatabase && hasBus ? ("ok" as const) : ("degraded" as const),
      service: "torpor",
      database: hasDatabase ? "connected" : "unreachable",
      bus: hasBus ? "connected" : "disconnected",
      request_id: request.id,
    };
  });
};

async function answersInTime(ping: Promise<void>): Promise<boolean> {
  return await withTimeLimit(ping, PING_LIMIT_MS, "the ping").then(
    () => true,
    () => false,
  );
}
