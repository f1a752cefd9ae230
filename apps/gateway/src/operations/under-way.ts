/**
 * Limits the requests under way: a request that waits for an operation, or streams, costs memory.
 */
import type { ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { tooManyRequests } from "../http/errors.ts";

const RETRY_AFTER_S = 1;

export class UnderWay {
  private readonly most: number;
  private readonly counts = new Map<string, number>();

  /** `most`: requests of one budget at once; 0: no limit. */
  constructor(most: number) {
    this.most = most;
  }

  /** Counts a request until its response closes. Throws the 429 at the limit. */
  begin(budget: string, answer: ServerResponse | Duplex): void {
    if (this.most === 0 || answer.closed || answer.destroyed) return;
    const count = this.counts.get(budget) ?? 0;
    if (count >= this.most) {
      const message = `${count} requests are under way already. Wait for some of them to be answered.`;
      throw tooManyRequests(message, RETRY_AFTER_S);
    }
    this.counts.set(budget, count + 1);
    answer.once("close", () => this.end(budget));
  }

  private end(budget: string): void {
    const left = (this.counts.get(budget) ?? 1) - 1;
    if (left > 0) this.counts.set(budget, left);
    else this.counts.delete(budget);
  }
}
