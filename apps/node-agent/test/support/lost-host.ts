/**
 * A host that is lost inside this process, as by `kill -9`. From one moment on it takes no durable
 * step, and its calls to a VMM, the store or the control plane neither begin nor return: all its
 * work waits forever. Its VMMs live on.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { subscribe } from "node:diagnostics_channel";
import { join } from "node:path";
import type { Observation, VmCommand } from "@torpor/contracts";
import { withTimeLimit } from "@torpor/service";
import type { Driver } from "../../src/drivers/driver.ts";
import { DURABLE_STEP_CHANNEL, type DurableStep } from "../../src/host/durable-step.ts";
import type { WarmSettings } from "../../src/lifecycle/warm-pool.ts";
import { fileBlobs, WatchedBlobs } from "./snapshots.ts";
import { forgetVmm, isEndOf, TestHost } from "./test-host.ts";

const LIMIT_MS = 60_000;

/** The life to which an asynchronous call belongs: the one in which it began. */
const lives = new AsyncLocalStorage<Life>();
subscribe(DURABLE_STEP_CHANNEL, (message) => lives.getStore()?.meet(message as DurableStep));

/** Record of a host between the delivery of its last command and its loss. */
export interface Lost {
  /** Names of its durable steps, including the one before which it was lost. */
  steps: string[];
  /** True if it acknowledged the command: the broker does not deliver it again. */
  isAcknowledged: boolean;
}

class Life {
  readonly seen: Lost = { steps: [], isAcknowledged: false };
  private readonly command: VmCommand;
  private readonly crashAt: number;
  private readonly lost = Promise.withResolvers<void>();
  private isLost = false;
  private isCounting = false;

  constructor(command: VmCommand, crashAt: number) {
    this.command = command;
    this.crashAt = crashAt;
  }

  meet({ name, when, hold }: DurableStep): void {
    const counts = this.isCounting && !this.isLost && when === "before";
    if (counts && this.seen.steps.push(name) === this.crashAt) this.end();
    hold(this.goOn());
  }

  hear(seen: Observation): void {
    if (isEndOf(this.command, seen)) this.end();
  }

  /** Resolves at once, or never. */
  goOn(): Promise<void> {
    return this.isLost ? new Promise(() => {}) : Promise.resolve();
  }

  /** Resolves when the host is lost. */
  async complete(host: TestHost): Promise<void> {
    this.isCounting = true;
    const lost = this.lost.promise;
    const taken = host.supervisor.submit(this.command).then((accepted) => {
      this.seen.isAcknowledged = accepted === "journalled";
      return lost;
    });
    await withTimeLimit(Promise.race([lost, taken]), LIMIT_MS, `the ${this.command.kind}`);
  }

  end(): void {
    this.isLost = true;
    this.lost.resolve();
  }

  /** The driver, as this host sees it. */
  driver(driver: Driver): Driver {
    return new Proxy(driver, {
      get: (target, name) => {
        const member: unknown = Reflect.get(target, name);
        if (typeof member !== "function") return member;
        return async (...given: unknown[]): Promise<unknown> => {
          await this.goOn();
          return await Reflect.apply(member, target, given);
        };
      },
    });
  }

  /** The store, as this host sees it. */
  blobs(dir: string): WatchedBlobs {
    const blobs = new WatchedBlobs(fileBlobs(dir));
    blobs.before = () => this.goOn();
    return blobs;
  }
}

/**
 * Delivers the command to a host that has taken over `dir`, and loses the host right before the
 * `crashAt`th durable step, or, if the command has no such step, when its end is reported. `before`
 * runs before the delivery.
 */
export async function loseHost(
  dir: string,
  driver: Driver,
  command: VmCommand,
  crashAt: number,
  { warm, before }: { warm?: WarmSettings; before?: (host: TestHost) => Promise<void> } = {},
): Promise<Lost> {
  const life = new Life(command, crashAt);
  const hear = (seen: Observation) => life.hear(seen);
  const blobs = life.blobs(join(dir, "store"));
  const host = new TestHost(dir, life.driver(driver), hear, undefined, blobs, undefined, warm);
  host.onCommit = () => life.goOn();
  try {
    await lives.run(life, async () => {
      await host.supervisor.adopt();
      await before?.(host);
      await life.complete(host);
    });
    return life.seen;
  } finally {
    life.end();
    forgetVmm(dir);
  }
}
