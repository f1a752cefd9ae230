/**
 * What a client opened at the edge ends when what it showed for it does: the sandbox's tokens are
 * revoked, or an API key, or a browser's cookie expires. A request is judged once; a stream, a
 * WebSocket or a long answer goes on after that, so those that are open are looked at again and
 * again.
 *
 * OS1  One query for all of a gateway, however many there are, and none while there are none.
 * OS2  What is over before it is looked at is never asked about: most requests.
 * OS3  While the database does not answer nothing is known of revocations, and nothing is ended but
 *      what has expired: that is in the cookie, and judged by the gateway's clock, as it was when
 *      the request came.
 */
import type { ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import type { StreamCredential } from "@torpor/db";

type Stream = Pick<ServerResponse | Duplex, "closed" | "destroyed" | "destroy" | "once">;

/** By what a client passed. */
export interface Shown {
  credential: StreamCredential;
  /** Undefined: never by itself. */
  expiresAtMs?: number;
}

type FindEnded = (credentials: readonly StreamCredential[]) => Promise<number[]>;

export class OpenStreams {
  private readonly findEnded: FindEnded;
  private readonly now: () => number;
  /** Since the last round, and from before it. */
  private fresh = new Map<Stream, Shown>();
  private readonly open = new Map<Stream, Shown>();

  /** `findEnded`: the places of those that are good no more. */
  constructor(findEnded: FindEnded, now: () => number = Date.now) {
    this.findEnded = findEnded;
    this.now = now;
  }

  /** Until it is closed. */
  watch(stream: Stream, shown: Shown): void {
    if (stream.closed || stream.destroyed) return;
    this.fresh.set(stream, shown);
    stream.once("close", () => {
      this.fresh.delete(stream);
      this.open.delete(stream);
    });
  }

  /**
   * One round: ends those whose credential has ended. Rejects when the database does not answer.
   */
  async endOver(): Promise<{ open: number; ended: number }> {
    const [expired, standing] = this.byExpiry();
    for (const [stream, shown] of this.fresh) this.open.set(stream, shown);
    this.fresh = new Map();
    for (const [stream] of expired) stream.destroy();
    const byCredential = Map.groupBy(standing, ([, { credential }]) => JSON.stringify(credential));
    const groups = [...byCredential.values()];
    const asked = groups.flatMap(([first]) => (first === undefined ? [] : [first[1].credential]));
    const endedAt = asked.length === 0 ? [] : await this.findEnded(asked);
    const revoked = endedAt.flatMap((at) => groups[at] ?? []);
    for (const [stream] of revoked) stream.destroy();
    return { open: this.open.size, ended: expired.length + revoked.length };
  }

  /** Of those from before the last round: what has expired, and what has not. */
  private byExpiry(): [[Stream, Shown][], [Stream, Shown][]] {
    const nowMs = this.now();
    const isOver = ({ expiresAtMs = Number.POSITIVE_INFINITY }: Shown) => expiresAtMs <= nowMs;
    const all = [...this.open];
    return [all.filter(([, shown]) => isOver(shown)), all.filter(([, shown]) => !isOver(shown))];
  }
}
