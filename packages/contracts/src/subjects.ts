/**
 * Every NATS subject of Torpor, in one place. Tokens go from general to specific, the host id
 * before the verb: a host's permissions are then one prefix.
 */
import type { OperationKind } from "@torpor/state-machine";
import type { ControlQuestion } from "./control.ts";
import type { SandboxEventType } from "./event-types.ts";
import type { Question } from "./host/asks.ts";
import type { CommandKind } from "./host/command.ts";

export const subjects = {
  intent: (kind: OperationKind) => `torpor.v1.intent.${kind}`,
  command: (hostId: string, verb: CommandKind) => `torpor.v1.host.${hostId}.cmd.${verb}`,
  observation: (hostId: string, fact: string) => `torpor.v1.host.${hostId}.obs.${fact}`,
  sandboxEvent: (sandboxId: string, fact: SandboxEventType) =>
    `torpor.v1.sandbox.${sandboxId}.evt.${fact}`,
  ask: (hostId: string, question: Question) => `torpor.v1.host.${hostId}.ask.${question}`,
  beat: (hostId: string) => `torpor.v1.host.${hostId}.beat`,
  controlAsk: (question: ControlQuestion) => `torpor.v1.control.ask.${question}`,
} as const;

/** Subscriptions: the same subjects with wildcards. */
export const patterns = {
  intents: "torpor.v1.intent.*",
  commandsOf: (hostId: string) => `torpor.v1.host.${hostId}.cmd.*`,
  commands: "torpor.v1.host.*.cmd.*",
  observations: "torpor.v1.host.*.obs.*",
  eventsOf: (sandboxId: string) => `torpor.v1.sandbox.${sandboxId}.evt.*`,
  events: "torpor.v1.sandbox.*.evt.*",
  asks: (question: Question) => `torpor.v1.host.*.ask.${question}`,
  beats: "torpor.v1.host.*.beat",
} as const;

/**
 * The host id in a `torpor.v1.host.<hostId>.…` subject. What a message claims about itself is
 * checked against it: NATS permissions guard the subject, not the body.
 */
export function hostIdOf(subject: string): string | undefined {
  const tokens = subject.split(".");
  return tokens[2] === "host" ? tokens[3] : undefined;
}
