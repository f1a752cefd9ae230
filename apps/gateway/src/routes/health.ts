import { HealthReply } from "@torpor/contracts";
import type { FastifyPluginAsyncTypebox } from "@fastify/type-provider-typebox";
import type { Dependencies } from "../deps.ts";
import { healthReport } from "../health-report.ts";

const SCHEMA = { tags: ["health"], security: [], response: { 200: HealthReply, 503: HealthReply } };

/**
 * Needs no key. 200 also when a part is missing: the process responds. 503 when it is about to
 * stop, so that a balancer sends nothing more.
 */
export const healthRoutes: FastifyPluginAsyncTypebox<{ deps: Dependencies }> = async (
  app,
  { deps },
) => {
  app.get("/health", { schema: SCHEMA }, async (request, reply) => {
    const report = await healthReport(deps);
    reply.status(report.status === "draining" ? 503 : 200);
    return { service: "torpor", ...report, request_id: request.id };
  });
};
