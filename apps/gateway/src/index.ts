export { buildApp } from "./app.ts";
export { DEFAULT_LIMITS, type Dependencies, type GatewayLimits } from "./deps.ts";
export { openApiDocument } from "./openapi.ts";
