/**
 * What a user of the NATS server may do. The control side (gateways, schedulers) may do everything in its account; a host may speak for itself alone: report, ask and beat under its
 * own prefix, and pull its own commands. It can neither read the commands of another host nor make a stream or a consumer.
 */
import { hostCommands, subjects } from "@torpor/contracts";

export interface HostPermissions {
  publish: string[];
  subscribe: string[];
}

export function inboxPrefixOf(hostId: string): string {
  return `_INBOX_host-${hostId}`;
}

export function hostPermissions(hostId: string): HostPermissions {
  const { stream, durable } = hostCommands(hostId);
  const beat = subjects.beat(hostId);
  const own = beat.slice(0, -".beat".length);
  return {
    publish: [
      `${own}.obs.>`,
      `${own}.ask.>`,
      beat,
      `$JS.API.CONSUMER.INFO.${stream}.${durable}`,
      `$JS.API.CONSUMER.MSG.NEXT.${stream}.${durable}`,
      `$JS.ACK.${stream}.${durable}.>`,
    ],
    subscribe: [`${inboxPrefixOf(hostId)}.>`],
  };
}
