export * from "./sandbox.ts";
export * from "./operation.ts";
export * from "./admission.ts";
export * from "./host.ts";
export { renderLifecycle } from "./render.ts";
