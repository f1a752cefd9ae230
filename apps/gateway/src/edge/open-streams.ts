/**
 * What a client opened at the edge ends when what it showed for it does: the sandbox's tokens are
 * revoked, or an API key. A request is judged once; a stream, a WebSocket or a long answer goes on
 * after that, so those that are open are looked at again and again.
 *
 * OS1  One query for all of a gateway, however many there are, and none while there are none.
 * OS2  What is over before it is looked at is never asked about: most requests.
 * OS3  While the database does not answer nothing is known of revocations, and nothing is ended.
 */
import type { ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import type { StreamCredential } from "@torpor/db";

type Stream = Pick<ServerResponse | Duplex, "closed" | "destroyed" | "destroy" | "once">;

export class OpenStreams {
  private readonly findEnded: (shown: readonly StreamCredential[]) => Promise<number[]>;
  /** Since the last round, and from before it. */
  private fresh = new Map<Stream, StreamCredential>();
  private readonly open = new Map<Stream, StreamCredential>();

  /** `findEnded`: the places of those that are good no more. */
  constructor(findEnded: (shown: readonly StreamCredential[]) => Promise<number[]>) {
    this.findEnded = findEnded;
  }

  /** Until it is closed. */
  watch(stream: Stream, credential: StreamCredential): void {
    if (stream.closed || stream.destroyed) return;
    this.fresh.set(stream, credential);
    stream.once("close", () => {
      this.fresh.delete(stream);
      this.open.delete(stream);
    });
  }

  /** One round: ends those whose credential has ended. Rejects when the database does not answer. */
  async endRevoked(): Promise<{ open: number; ended: number }> {
    const byCredential = Map.groupBy(this.open, ([, credential]) => JSON.stringify(credential));
    for (const [stream, credential] of this.fresh) this.open.set(stream, credential);
    this.fresh = new Map();
    const groups = [...byCredential.values()];
    const shown = groups.flatMap(([first]) => (first === undefined ? [] : [first[1]]));
    const endedAt = shown.length === 0 ? [] : await this.findEnded(shown);
    const revoked = endedAt.flatMap((at) => groups[at] ?? []);
    for (const [stream] of revoked) stream.destroy();
    return { open: this.open.size, ended: revoked.length };
  }
}
