/**
 * A client that creates sandboxes, writes into them, pauses, resumes, moves and deletes them, in an
 * order that its seed determines, whatever happens to the fleet. The client believes every
 * response, and records what each sandbox may hold: acknowledged values, and values whose request
 * got no response.
 */
import { setTimeout as sleep } from "node:timers/promises";
import {
  ApiRefusal,
  insist,
  isFinal,
  runCode,
  type SandboxResource,
  type TestFleet,
  writeGuestFile,
} from "@torpor/testkit";

const OWNED = 3;
/**
 * Shorter than the time that a gateway lets a request wait, so that one client does not spend a
 * whole fault on one request.
 */
const ANSWER_LIMIT_MS = 20_000;
const BETWEEN_MS = 50;

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
  resource: SandboxResource;
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
      (one) => this.connect(one),
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

  /** Undefined: there was no response. A refusal below 500 is a response. */
  private async ask<T>(
    what: (terms: { limitMs: number }) => Promise<T>,
  ): Promise<T | ApiRefusal | undefined> {
    const terms = { limitMs: ANSWER_LIMIT_MS };
    const answer = await insist(() => what(terms), ANSWER_LIMIT_MS).catch((error: unknown) =>
      isFinal(error) ? error : undefined,
    );
    if (answer !== undefined) this.answered += 1;
    return answer;
  }

  private async create(): Promise<void> {
    const on_host_loss = this.created % 2 === 0 ? "restore" : "wait";
    // With the key, all tries are one create. The client tries until a response decides.
    this.created += 1;
    const idempotencyKey = `${this.name}-${this.created}`;
    for (let tries = 0; tries < 10; tries += 1) {
      const made = await this.ask((terms) =>
        this.fleet.createSandbox({ on_host_loss }, { ...terms, idempotencyKey }),
      );
      if (made === undefined) continue;
      if (made instanceof ApiRefusal) {
        if (made.status === 429) continue;
        // The create failed with its host: no sandbox is left, and the key keeps the failure.
        return;
      }
      this.owned.push({
        id: made.id,
        resource: made,
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
    return await runCode(resource, code).then(
      () => true,
      () => false,
    );
  }

  private async writeFile({ resource }: Owned, value: number): Promise<boolean> {
    return await writeGuestFile(resource, "/workspace/value", String(value)).then(
      () => true,
      () => false,
    );
  }

  /** 409 is a response: the sandbox is in another state by now. */
  private async transition({ id }: Owned, verb: "pause" | "resume"): Promise<void> {
    await this.ask((terms) => this.fleet.client.sandboxes[verb](id, terms));
  }

  /** A request that is refused, whatever the state of the sandbox is: there is no such route. */
  private async connect({ id }: Owned): Promise<void> {
    await this.ask((terms) => this.fleet.client.send("POST", `/v1/sandboxes/${id}/connect`, terms));
  }

  private async pauseAndResume(owned: Owned): Promise<void> {
    await this.transition(owned, "pause");
    await this.transition(owned, "resume");
  }

  private async delete(owned: Owned): Promise<void> {
    owned.deleteAsked = true;
    const { sandboxes } = this.fleet.client;
    const answer = await this.ask((terms) => sandboxes.delete(owned.id, terms));
    // Without a response the delete may have happened or not; a GET decides.
    if (answer !== undefined) owned.isDeleted = true;
    else if ((await this.ask((terms) => sandboxes.get(owned.id, terms)))?.status === 404)
      owned.isDeleted = true;
  }
}
