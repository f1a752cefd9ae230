/**
 * What a host may do on the NATS servers: speak for itself, and pull its own commands. Each host
 * has an account of its own, in which nothing exists but what it imports from the control side's
 * (gateways and schedulers, who may do everything there). So no subject and no reply subject of a
 * host means anything but in its own account: whatever answers it, answers there.
 */
import { hostCommands, OBSERVED_STATES, subjects } from "@torpor/contracts";

export interface HostService {
  /** In the control side's account. */
  subject: string;
  /** In the host's. */
  localSubject: string;
  /** One request may get many answers. */
  isStream: boolean;
}

export function inboxPrefixOf(hostId: string): string {
  return `_INBOX_host-${hostId}`;
}

/** Where the control side sees the answer of a request wanted that came from another account. */
const ACROSS_ACCOUNTS = "_R_.";

/** Whether a question of the host may be answered there. */
export function mayBeAnswered(hostId: string, reply: string): boolean {
  return reply.startsWith(ACROSS_ACCOUNTS) || reply.startsWith(`${inboxPrefixOf(hostId)}.`);
}

/**
 * Under which the host finds the JetStream API of the control side's account. `$JS.API` itself is
 * answered by the server for every account: by "not enabled" in a host's.
 */
export const HOST_API_PREFIX = "torpor.v1.js";

/** What the control side's account offers to the host's, and to no other. */
export function hostServices(hostId: string): HostService[] {
  const { stream, durable } = hostCommands(hostId);
  const beat = subjects.beat(hostId);
  const own = beat.slice(0, -".beat".length);
  // One by one: what may wait is bounded for each of them (streams.ts in contracts).
  const observations = OBSERVED_STATES.map((state) => subjects.observation(hostId, state));
  const plain = [...observations, `${own}.ask.*`, beat, `$JS.ACK.${stream}.${durable}.>`];
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
 * Of the host's user. `shared`: in the control side's own account, for hosts of 0.1.0, which know
 * no other. There a host's reply subjects mean what they say.
 */
export function hostPermissions(hostId: string, place: "own" | "shared") {
  const subject = ({ subject, localSubject }: HostService) =>
    place === "own" ? localSubject : subject;
  return {
    publish: hostServices(hostId).map(subject),
    subscribe: [`${inboxPrefixOf(hostId)}.>`],
  };
}
