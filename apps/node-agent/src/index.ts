/** Messages of a host without virtual machines, for a program that simulates hosts (bench). */
export type { CommitAnswer } from "./lifecycle/context.ts";
export { commitAsker } from "./control/request-commit.ts";
export { heartbeat, keepLease, type Membership } from "./control/membership.ts";
export { Reporter } from "./control/reporter.ts";
