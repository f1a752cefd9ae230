/**
 * Permissions of a host on the NATS servers: to speak for itself, and to pull its own commands.
 * Each host has its own account, which contains only what it imports from the account of the
 * control plane (gateways and schedulers, which may do everything there). So the subjects and reply
 * subjects of a host have a meaning only in its own account, and a reply to a host stays there.
 */
import {
  hostCommands,
  type HostId,
  OBSERVED_STATES,
  subjects,
  unverifiedHostId,
} from "@torpor/contracts";

export interface HostService {
  /** Subject in the control plane's account. */
  subject: string;
  /** Subject in the host's account. */
  localSubject: string;
  /** True if a request may get many replies. */
  isStream: boolean;
}

export function inboxPrefixOf(hostId: HostId): string {
  return `_INBOX_host-${hostId}`;
}

/** Prefix of reply subjects in the control plane's account, for requests from other accounts. */
const ACROSS_ACCOUNTS = "_R_.";

/** True if a reply to the host may go to that subject. */
export function mayBeAnswered(hostId: HostId, reply: string): boolean {
  return reply.startsWith(ACROSS_ACCOUNTS) || reply.startsWith(`${inboxPrefixOf(hostId)}.`);
}

/**
 * Prefix of the control plane's JetStream API in a host's account. There the server itself replies
 * on `$JS.API`, with "not enabled".
 */
export const HOST_API_PREFIX = "torpor.v1.js";

/**
 * Exports of the control plane's account to the host's account, and to no other. `name`: the id of
 * the host, as the configuration of the servers has it.
 */
export function hostServices(name: string): HostService[] {
  const hostId = unverifiedHostId(name);
  const { stream, durable } = hostCommands(hostId);
  const heartbeat = subjects.heartbeat(hostId);
  const own = heartbeat.slice(0, -".beat".length);
  // One by one, because the waiting messages of each subject are bounded (streams.ts in contracts).
  const observations = OBSERVED_STATES.map((state) => subjects.observation(hostId, state));
  const plain = [...observations, `${own}.ask.*`, heartbeat, `$JS.ACK.${stream}.${durable}.>`];
  const api = (call: string, isStream: boolean) => ({
    subject: `$JS.API.CONSUMER.${call}.${stream}.${durable}`,
    localSubject: `${HOST_API_PREFIX}.CONSUMER.${call}.${stream}.${durable}`,
    isStream,
  });
  return [
    ...plain.map((subject) => ({ subject, localSubject: subject, isStream: false })),
    api("INFO", false),
    api("MSG.NEXT", true),
  ];
}

/**
 * Permissions of the host's user. `shared`: in the control plane's account, for hosts of 0.1.0,
 * which know no other. There, a reply goes to whatever subject the host named.
 */
export function hostPermissions(name: string, place: "own" | "shared") {
  const subject = ({ subject, localSubject }: HostService) =>
    place === "own" ? localSubject : subject;
  return {
    publish: hostServices(name).map(subject),
    subscribe: [`${inboxPrefixOf(unverifiedHostId(name))}.>`],
  };
}
