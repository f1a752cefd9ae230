/**
 * Ends a client's streams at the edge when their credential ends: the sandbox's tokens are revoked,
 * or an API key, or a browser's cookie expires. A request is checked once, but a stream, a
 * WebSocket or a long response continues after that, so open ones are checked again and again.
 *
 * OS1  One query checks all streams of a gateway; without streams there is none.
 * OS2  A stream that ends before its first check, as most requests do, needs no query.
 * OS3  While the database does not reply, revocations are unknown, and only expired streams are
 *      ended: the expiry is in the cookie, and the gateway's clock decides, as it did when the
 *      request came.
 */
import type { ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import type { StreamCredential } from "@torpor/db";

type Stream = Pick<ServerResponse | Duplex, "closed" | "destroyed" | "destroy" | "once">;

/** The credential that a client passed with. */
export interface Shown {
  credential: StreamCredential;
  /** Undefined: the credential has no expiry of its own. */
  expiresAtMs?: number;
}

type FindEnded = (credentials: readonly StreamCredential[]) => Promise<number[]>;

export class OpenStreams {
  private readonly findEnded: FindEnded;
  private readonly now: () => number;
  /** Streams since the last round; `open` has the older ones. */
  private fresh = new Map<Stream, Shown>();
  private readonly open = new Map<Stream, Shown>();

  /** `findEnded` returns the indexes of the credentials that have ended. */
  constructor(findEnded: FindEnded, now: () => number = Date.now) {
    this.findEnded = findEnded;
    this.now = now;
  }

  /** Watches a stream until it closes. */
  watch(stream: Stream, shown: Shown): void {
    if (stream.closed || stream.destroyed) return;
    this.fresh.set(stream, shown);
    stream.once("close", () => {
      this.fresh.delete(stream);
      this.open.delete(stream);
    });
  }

  /**
   * One round: ends the streams whose credential has ended. Rejects when the database does not
   * reply.
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

  /** Streams from before the last round: those that have expired, and those that have not. */
  private byExpiry(): [[Stream, Shown][], [Stream, Shown][]] {
    const nowMs = this.now();
    const isOver = ({ expiresAtMs = Number.POSITIVE_INFINITY }: Shown) => expiresAtMs <= nowMs;
    const all = [...this.open];
    return [all.filter(([, shown]) => isOver(shown)), all.filter(([, shown]) => !isOver(shown))];
  }
}
