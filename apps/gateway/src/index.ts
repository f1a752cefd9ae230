export { buildApp } from "./http/app.ts";
export { DEFAULT_LIMITS, type Dependencies, type GatewayLimits } from "./deps.ts";
export { openApiDocument } from "./http/openapi.ts";
