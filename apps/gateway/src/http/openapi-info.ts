import type { FastifyDynamicSwaggerOptions } from "@fastify/swagger";

export const OPENAPI: FastifyDynamicSwaggerOptions = {
  openapi: {
    openapi: "3.1.0",
    info: {
      title: "Torpor",
      version: "1",
      description:
        "Sandboxes that pause, resume, stop and start. Requests that change a sandbox answer when the change has ended, unless they prefer not to.",
    },
    components: {
      securitySchemes: {
        apiKey: { type: "apiKey", in: "header", name: "X-API-Key" },
        bearer: { type: "http", scheme: "bearer" },
      },
    },
    security: [{ apiKey: [] }, { bearer: [] }],
  },
};
