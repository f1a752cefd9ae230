export { buildApp } from "./app.ts";
export { DEFAULT_LIMITS, type Dependencies, type Limits } from "./deps.ts";
export { openApiDocument } from "./openapi.ts";
