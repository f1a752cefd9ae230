/**
 * This host's part of the work, for its health report: whether its commands can be read, and its
 * observations published.
 */
import type { WorkProblem } from "@torpor/service";

/** A NATS server or a scheduler that is restarted is back by then. */
const AFTER_MS = 10_000;

/** Observations that wait to be published. */
export interface Backlog {
  count: number;
  /** Time of the oldest one, by this process's clock; undefined: none waits. */
  oldestAtMs: number | undefined;
}

export class HostWork {
  private unreadableSinceMs: number | undefined;
  private readonly backlog: () => Backlog;
  private readonly now: () => number;

  constructor(backlog: () => Backlog, now: () => number = Date.now) {
    this.backlog = backlog;
    this.now = now;
  }

  /** Records whether the host's commands could be read, at each attempt. */
  noteCommands(isReadable: boolean): void {
    this.unreadableSinceMs = isReadable ? undefined : (this.unreadableSinceMs ?? this.now());
  }

  problems(): WorkProblem[] {
    const { count, oldestAtMs } = this.backlog();
    return [
      ...this.lasting(this.unreadableSinceMs, "COMMANDS_UNREADABLE", "commands", UNREADABLE),
      ...this.lasting(oldestAtMs, "OBSERVATIONS_WAIT", "observations", unheard(count)),
    ];
  }

  private lasting(
    sinceMs: number | undefined,
    code: string,
    subject: string,
    message: string,
  ): WorkProblem[] {
    if (sinceMs === undefined || this.now() - sinceMs < AFTER_MS) return [];
    return [{ code, subject, since: new Date(sinceMs).toISOString(), message }];
  }
}

const UNREADABLE =
  "The host's commands cannot be read: see whether a NATS server can be reached, and whether schedulers run, which make what is missing there.";
const unheard = (count: number) =>
  `${count} observations wait to be published: see whether a NATS server can be reached and has room, and whether schedulers run, which take them.`;
