/**
 * Whether this host's part of the work goes on, for its health report: it can be told, and it is
 * heard.
 */
import type { WorkProblem } from "@torpor/service";

/** A server that is restarted, or a scheduler, is back by then. */
const AFTER_MS = 10_000;

/** What waits to be published. */
export interface Backlog {
  count: number;
  /** When the oldest was made, by this process's clock; undefined: none waits. */
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

  /** Whether the host's commands can be read, whenever that was tried. */
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
