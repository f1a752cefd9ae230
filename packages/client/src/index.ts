export { type Client, createClient } from "./client.ts";
export { ApiRefusal, NoAnswer } from "./errors.ts";
export type { KeyFilter } from "./organizations.ts";
export type { ListedSandbox, PauseTerms, SandboxFilter, TransitionVerb } from "./sandboxes.ts";
export type { ClientOptions, Terms } from "./transport.ts";
