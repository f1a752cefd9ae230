/**
 * Watches whether messages are read, from what the bus reports of its consumers in each round, and
 * whether the outbox empties. A consumer may exist, and every program be connected, while nothing
 * is done.
 */
import type { ConsumerState } from "@torpor/bus";
import {
  hostCommands,
  type HostId,
  SCHEDULER_INTENTS,
  SCHEDULER_OBSERVATIONS,
} from "@torpor/contracts";
import type { OutboxBacklog, RefusedMessages } from "@torpor/db";
import type { WorkProblem } from "@torpor/service";

/** Longer than the time to the redelivery of a message whose reader was killed. */
const STANDS_AFTER_MS = 15_000;
const GROWS_AFTER_MS = 30_000;
/** This many messages at once are an ordinary burst. */
const BURST = 500;
const OUTBOX_AFTER_MS = 10_000;

/** State of a consumer, kept from one round to the next. Times are of this process's clock. */
export interface Progress {
  outstanding: number;
  ackFloor: number;
  /** Time of the last acknowledgement, or when nothing was left. */
  movedAtMs: number;
  /** Time since which the number has not fallen, and is more than a burst. */
  grownSinceMs: number;
}

export function follow(
  before: Progress | undefined,
  { waiting, unacknowledged, ackFloor }: ConsumerState,
  nowMs: number,
): Progress {
  const outstanding = waiting + unacknowledged;
  const isLess = before !== undefined && outstanding < before.outstanding;
  // Messages that came into an empty queue have waited at most since then.
  const hasMoved =
    before === undefined || isLess || before.outstanding === 0 || ackFloor > before.ackFloor;
  return {
    outstanding,
    ackFloor,
    movedAtMs: hasMoved || outstanding === 0 ? nowMs : before.movedAtMs,
    grownSinceMs:
      before === undefined || isLess || outstanding <= BURST ? nowMs : before.grownSinceMs,
  };
}

/** `durable` is the consumer of a host, or one of the schedulers'. */
export function checkProgress(
  durable: string,
  { outstanding, movedAtMs, grownSinceMs }: Progress,
  nowMs: number,
): WorkProblem | undefined {
  if (nowMs - movedAtMs >= STANDS_AFTER_MS) {
    const stands = { subject: durable, since: new Date(movedAtMs).toISOString() };
    return HOST.test(durable)
      ? { ...stands, code: "HOST_TAKES_NO_COMMANDS", message: deafHost(durable, outstanding) }
      : { ...stands, code: "CONSUMER_STANDS", message: standing(durable, outstanding) };
  }
  if (nowMs - grownSinceMs < GROWS_AFTER_MS) return undefined;
  const since = new Date(grownSinceMs).toISOString();
  const message = `${outstanding} messages wait for ${durable}, and become no less: start another scheduler, or look in the schedulers' logs for what is slow.`;
  return { code: "CONSUMER_FALLS_BEHIND", subject: durable, since, message };
}

const HOST = /^host-(.+)$/;

const deafHost = (durable: string, outstanding: number) =>
  `Host ${HOST.exec(durable)?.[1]} has acknowledged none of ${outstanding} commands: look at its node-agent's log and health report, and restart the agent; its virtual machines go on.`;
const standing = (durable: string, outstanding: number) =>
  `None of ${outstanding} messages for ${durable} has been acknowledged: look in the schedulers' logs for what fails, and restart them one by one if nothing does.`;

export class WorkWatch {
  private consumers = new Map<string, Progress>();
  private found: WorkProblem[] = [];
  private outbox: WorkProblem | undefined;
  private refused: WorkProblem | undefined;

  /**
   * Notes the consumers of a round; others are forgotten. `hostIds`: hosts that can take commands.
   */
  noteConsumers(states: ConsumerState[], hostIds: HostId[], nowMs = Date.now()): void {
    const watched = new Set([
      SCHEDULER_INTENTS.durable,
      SCHEDULER_OBSERVATIONS.durable,
      ...hostIds.map((id) => hostCommands(id).durable),
    ]);
    const followed = states
      .filter(({ durable }) => watched.has(durable))
      .map(
        (seen) => [seen.durable, follow(this.consumers.get(seen.durable), seen, nowMs)] as const,
      );
    this.consumers = new Map(followed);
    this.found = followed.flatMap(
      ([durable, progress]) => checkProgress(durable, progress, nowMs) ?? [],
    );
  }

  noteOutbox(backlog: OutboxBacklog | undefined): void {
    this.outbox = backlog === undefined ? undefined : checkOutbox(backlog);
  }

  /** Notes the refused messages of the last `REFUSED_SHOWN_MS`. */
  noteRefused(refused: RefusedMessages | undefined): void {
    this.refused = refused && reportRefused(refused);
  }

  /** Problems as of the newest notes. */
  problems(): WorkProblem[] {
    const ofOutbox = [this.outbox, this.refused].filter((problem) => problem !== undefined);
    return [...this.found, ...ofOutbox];
  }
}

/** An operator cannot acknowledge the problem, so it is shown for a day. */
export const REFUSED_SHOWN_MS = 24 * 3_600_000;

function reportRefused({ count, oldestAt, newest }: RefusedMessages): WorkProblem {
  const { subject, reason } = newest;
  return {
    code: "MESSAGES_REFUSED",
    subject: "outbox",
    since: oldestAt.toISOString(),
    message:
      `${count} messages of the last 24 hours can never be sent, and were set aside; the newest, to ` +
      `${subject}, because ${reason}. What needed one has ended with its reason. Where they are too ` +
      "large, raise max_payload of the NATS servers; a malformed one is a mistake of Torpor's, to be reported.",
  };
}

export function checkOutbox({
  oldestAt,
  ageMs,
  count,
  isCounted,
}: OutboxBacklog): WorkProblem | undefined {
  if (ageMs < OUTBOX_AFTER_MS) return undefined;
  const messages = isCounted ? String(count) : `more than ${count}`;
  return {
    code: "OUTBOX_GROWS",
    subject: "outbox",
    since: oldestAt.toISOString(),
    message: `${messages} messages wait in the outbox and are not published: see whether the NATS servers are up and have room, and look in the schedulers' logs for relay-outbox.`,
  };
}
