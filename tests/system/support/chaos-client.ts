/**
 * A client that creates sandboxes, writes into them, pauses, resumes, moves and deletes them, in an
 * order that its seed determines, whatever happens to the fleet. The client believes every
 * response, and records what each sandbox may hold: acknowledged values, and values whose request
 * got no response.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { ApiAnswer, TestFleet } from "@torpor/testkit";
import { insist } from "./insist.ts";

const OWNED = 3;
/**
 * Shorter than the time that a gateway lets a request wait, so that one client does not spend a
 * whole fault on one request.
 */
const ANSWER_LIMIT_MS = 20_000;
const BETWEEN_MS = 50;

type Body = Record<string, unknown>;
type Step = (owned: Owned) => Promise<void>;

interface Attempt {
  value: number;
  startedAtMs: number;
  /** Missing when no response came. */
  acknowledgedAtMs?: number;
}

/** Every attempt to write, oldest first; each attempt writes another value. */
export type Written = Attempt[];

/**
 * Values that may be found: the last acknowledged one, or any one without a response, from before
 * or after it. A network that was cut may deliver a request later.
 */
export interface Possible {
  values: number[];
  /** False when there may be no value. */
  isAcknowledged: boolean;
}

/** Values that may be found at a moment of this machine's clock. */
export function possibleAt(written: Written, atMs = Number.POSITIVE_INFINITY): Possible {
  const isAcknowledged = ({ acknowledgedAtMs }: Attempt) =>
    acknowledgedAtMs !== undefined && acknowledgedAtMs <= atMs;
  const begun = written.filter(({ startedAtMs }) => startedAtMs <= atMs);
  const last = begun.findLast(isAcknowledged);
  const values = begun
    .filter((attempt) => attempt === last || !isAcknowledged(attempt))
    .map(({ value }) => value);
  return { values, isAcknowledged: last !== undefined };
}

/**
 * Values that may be found after the sandbox went back to its snapshot of `snapshotAtMs`, as was
 * decided at `lostAtMs`: those of the snapshot and any without a response. After an acknowledged
 * write later than the loss, as without a loss.
 */
export function possibleAfterLoss(
  written: Written,
  snapshotAtMs: number,
  lostAtMs: number,
): Possible {
  if (written.some(({ acknowledgedAtMs = 0 }) => acknowledgedAtMs > lostAtMs))
    return possibleAt(written);
  const { values, isAcknowledged } = possibleAt(written, snapshotAtMs);
  const unanswered = written.filter(({ acknowledgedAtMs }) => acknowledgedAtMs === undefined);
  return { values: [...values, ...unanswered.map(({ value }) => value)], isAcknowledged };
}

export interface Owned {
  id: string;
  /** Response of the create: address and token. */
  resource: Body;
  /** Attempts to set `x`. */
  memory: Written;
  /** Attempts to write the file. */
  disk: Written;
  /** A delete was sent; its response may be missing. */
  deleteAsked: boolean;
  isDeleted: boolean;
}

async function noted(
  written: Written,
  value: number,
  write: () => Promise<boolean>,
): Promise<void> {
  const attempt: Attempt = { value, startedAtMs: Date.now() };
  written.push(attempt);
  if (await write()) attempt.acknowledgedAtMs = Date.now();
}

/** Pseudo-random numbers in [0, 1), the same for the same seed. */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1_664_525 + 1_013_904_223) % 2 ** 32;
    return state / 2 ** 32;
  };
}

export class ChaosClient {
  readonly owned: Owned[] = [];
  /** Requests that got a response. */
  answered = 0;
  private readonly fleet: TestFleet;
  private readonly name: string;
  private readonly next: () => number;
  private written = 0;
  private created = 0;

  constructor(fleet: TestFleet, name: string, seed: number) {
    this.fleet = fleet;
    this.name = name;
    this.next = numbers(seed);
  }

  async work(signal: AbortSignal): Promise<void> {
    const steps: Step[] = [
      (one) => this.write(one),
      (one) => this.write(one),
      (one) => this.transition(one, "pause"),
      (one) => this.transition(one, "resume"),
      (one) => this.transition(one, "connect"),
      (one) => this.pauseAndResume(one),
      (one) => this.delete(one),
    ];
    while (!signal.aborted) {
      const living = this.living();
      if (living.length < OWNED) await this.create();
      else await this.pick(steps)(this.pick(living));
      await sleep(BETWEEN_MS);
    }
  }

  living(): Owned[] {
    return this.owned.filter(({ isDeleted }) => !isDeleted);
  }

  private pick<T>(list: readonly T[]): T {
    return list[Math.floor(this.next() * list.length)] as T;
  }

  private async call(
    method: string,
    path: string,
    body?: unknown,
    headers: Record<string, string> = {},
  ): Promise<ApiAnswer | undefined> {
    const request = { ...(body === undefined ? {} : { body }), headers, limitMs: ANSWER_LIMIT_MS };
    const answer = await insist(() => this.fleet.call(method, path, request), ANSWER_LIMIT_MS);
    if (answer.status === 0 || answer.status >= 500) return undefined;
    this.answered += 1;
    return answer as ApiAnswer;
  }

  private async create(): Promise<void> {
    const body = {
      template_name: "code-interpreter",
      on_host_loss: this.created % 2 === 0 ? "restore" : "wait",
    };
    // With the key, all tries are one create. The client tries until a response decides.
    this.created += 1;
    const headers = { "idempotency-key": `${this.name}-${this.created}` };
    for (let tries = 0; tries < 10; tries += 1) {
      const made = await this.call("POST", "/v1/sandboxes", body, headers);
      if (made === undefined || made.status === 429) continue;
      // The create failed with its host: no sandbox is left, and the key keeps the failure.
      if (made.status !== 201) return;
      this.owned.push({
        id: String(made.body["id"]),
        resource: made.body,
        memory: [],
        disk: [],
        deleteAsked: false,
        isDeleted: false,
      });
      return;
    }
    throw new Error(`${this.name} got no answer to a create`);
  }

  private async write(owned: Owned): Promise<void> {
    this.written += 1;
    const value = this.written;
    await noted(owned.memory, value, () => this.execute(owned, `x = ${value}`));
    await noted(owned.disk, value, () => this.writeFile(owned, value));
  }

  private async execute({ resource }: Owned, code: string): Promise<boolean> {
    const answer = await this.fleet
      .guest(resource, "/execute", { language: "python", code })
      .catch(() => undefined);
    return answer?.status === 200;
  }

  private async writeFile({ resource }: Owned, value: number): Promise<boolean> {
    const body = { path: "/workspace/value", content: String(value) };
    const answer = await this.fleet.guest(resource, "/files/write", body).catch(() => undefined);
    return answer?.status === 200;
  }

  /** 409 is a response: the sandbox is in another state by now. */
  private async transition({ id }: Owned, verb: string): Promise<void> {
    await this.call("POST", `/v1/sandboxes/${id}/${verb}`);
  }

  private async pauseAndResume(owned: Owned): Promise<void> {
    await this.transition(owned, "pause");
    await this.transition(owned, "resume");
  }

  private async delete(owned: Owned): Promise<void> {
    owned.deleteAsked = true;
    const answer = await this.call("DELETE", `/v1/sandboxes/${owned.id}`);
    // Without a response the delete may have happened or not; a GET decides.
    if (answer !== undefined) owned.isDeleted = true;
    else if ((await this.call("GET", `/v1/sandboxes/${owned.id}`))?.status === 404)
      owned.isDeleted = true;
  }
}
