/** Messages of a host without virtual machines, for a program that simulates hosts (bench). */
export type { CommitAnswer } from "./lifecycle/context.ts";
export { commitAsker } from "./shell/request-commit.ts";
export { heartbeat, keepLease, type Membership } from "./shell/membership.ts";
export { Reporter } from "./shell/reporter.ts";
