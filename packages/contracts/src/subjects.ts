/**
 * Every NATS subject of Torpor. Tokens go from general to specific, with the host id before the
 * verb, so that a host's permissions are one prefix.
 */
import type { OperationKind } from "@torpor/state-machine";
import type { ControlQuestion } from "./control.ts";
import type { SandboxEventType } from "./event-types.ts";
import type { Question } from "./host/asks.ts";
import type { CommandKind } from "./host/command.ts";
import { type HostId, type SandboxId, unverifiedHostId } from "./ids.ts";

export const subjects = {
  intent: (kind: OperationKind) => `torpor.v1.intent.${kind}`,
  command: (hostId: HostId, verb: CommandKind) => `torpor.v1.host.${hostId}.cmd.${verb}`,
  observation: (hostId: HostId, fact: string) => `torpor.v1.host.${hostId}.obs.${fact}`,
  sandboxEvent: (sandboxId: SandboxId, fact: SandboxEventType) =>
    `torpor.v1.sandbox.${sandboxId}.evt.${fact}`,
  request: (hostId: HostId, question: Question) => `torpor.v1.host.${hostId}.ask.${question}`,
  heartbeat: (hostId: HostId) => `torpor.v1.host.${hostId}.beat`,
  controlRequest: (question: ControlQuestion) => `torpor.v1.control.ask.${question}`,
} as const;

/** Subscriptions: the same subjects with wildcards. */
export const patterns = {
  intents: "torpor.v1.intent.*",
  commandsOf: (hostId: HostId) => `torpor.v1.host.${hostId}.cmd.*`,
  commands: "torpor.v1.host.*.cmd.*",
  observations: "torpor.v1.host.*.obs.*",
  eventsOf: (sandboxId: SandboxId) => `torpor.v1.sandbox.${sandboxId}.evt.*`,
  events: "torpor.v1.sandbox.*.evt.*",
  requests: (question: Question) => `torpor.v1.host.*.ask.${question}`,
  heartbeats: "torpor.v1.host.*.beat",
} as const;

/**
 * The host id in a `torpor.v1.host.<hostId>.…` subject. NATS permissions guard the subject, not the
 * body, so the host id in the body is compared with it.
 */
export function hostIdOf(subject: string): HostId | undefined {
  const [, , kind, id] = subject.split(".");
  return kind === "host" && id !== undefined ? unverifiedHostId(id) : undefined;
}
