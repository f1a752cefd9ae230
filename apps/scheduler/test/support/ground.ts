/** A host that is drained, round by round, and a host that takes its sandboxes. */
import assert from "node:assert/strict";
import type { HostId, OperationId, SandboxId } from "@torpor/contracts";
import {
  type DrainBudget,
  type DrainProgress,
  listDrainProgress,
  requestDrain,
  type SandboxRow,
} from "@torpor/db";
import type { Databases } from "@torpor/testkit";
import { drainHosts } from "../../src/drains/drain-hosts.ts";
import { Decisions, SNAPSHOT } from "./decisions.ts";

export const HERE = "here" as HostId;

export const ROOM = { capacity: { vcpu: 100, memoryMib: 6400, diskMib: 6400 } };
export const STORED = { ...SNAPSHOT, storeKey: "stored" };

/** Host `here` with sandboxes on it, and host `there` that could take them. */
export class Ground implements AsyncDisposable {
  readonly scheduler: Decisions;
  readonly sandboxes: SandboxRow[];

  private constructor(scheduler: Decisions, sandboxes: SandboxRow[]) {
    this.scheduler = scheduler;
    this.sandboxes = sandboxes;
  }

  static async with(
    server: Databases,
    states: ("running" | "paused")[],
    there: Parameters<Decisions["join"]>[1] = ROOM,
  ): Promise<Ground> {
    const scheduler = await Decisions.over(server);
    await scheduler.join("here", ROOM);
    const sandboxes: SandboxRow[] = [];
    for (const state of states)
      sandboxes.push(
        state === "running" ? await scheduler.running() : await scheduler.paused("stored"),
      );
    await scheduler.join("there", there);
    return new Ground(scheduler, sandboxes);
  }

  get db() {
    return this.scheduler.database.db;
  }

  async drain(given: Partial<DrainBudget> = {}): Promise<void> {
    const budget = { maxParallel: 1, maxBytesPerSecond: null, deadlineAt: null, ...given };
    assert.equal((await requestDrain(this.db, HERE, budget, "test")).kind, "moved");
  }

  async drainAgain(): Promise<void> {
    const budget = { maxParallel: 1, maxBytesPerSecond: 1, deadlineAt: null };
    assert.equal((await requestDrain(this.db, HERE, budget, "test")).kind, "stay");
  }

  /** A round sees what the one before has committed: two rounds take a slot and use it. */
  async rounds(count = 2): Promise<void> {
    for (let round = 0; round < count; round += 1) await drainHosts(this.scheduler.deps);
  }

  /**
   * A round of a scheduler that dies once it has requested an operation, before the operation
   * begins.
   */
  async roundThatDies(): Promise<void> {
    const publishCommitted = async () => {
      throw new Error("the scheduler has died");
    };
    await assert.rejects(drainHosts({ ...this.scheduler.deps, publishCommitted }), /has died/);
  }

  /** Makes everything that has failed due for another try. */
  async letTimePass(): Promise<void> {
    await this.scheduler.database
      .sql`UPDATE drain_sandboxes SET retry_at = now() - interval '1 second' WHERE retry_at IS NOT NULL`;
  }

  async progress(): Promise<DrainProgress> {
    const progress = (await listDrainProgress(this.db, [HERE])).get(HERE);
    if (progress === undefined) throw new Error("there is no drain");
    return progress;
  }

  /** Executing operations of the sandbox, or of all. */
  async executing(
    sandboxId?: SandboxId,
  ): Promise<
    { id: OperationId; kind: string; sandboxId: SandboxId; hostId: HostId; requestedBy: string }[]
  > {
    const { sql } = this.scheduler.database;
    const rows =
      await sql`SELECT id, kind, sandbox_id, host_id, requested_by FROM operations WHERE status = 'executing' ORDER BY id`;
    return rows
      .map((row) => ({
        id: row["id"] as OperationId,
        kind: row["kind"] as string,
        sandboxId: row["sandbox_id"] as SandboxId,
        hostId: row["host_id"] as HostId,
        requestedBy: row["requested_by"] as string,
      }))
      .filter((row) => sandboxId === undefined || row.sandboxId === sandboxId);
  }

  /** The one operation that executes. */
  async only(kind: string, hostId: string): Promise<{ id: OperationId; sandboxId: SandboxId }> {
    const [operation, ...more] = await this.executing();
    assert(
      operation !== undefined && more.length === 0,
      `${1 + more.length} operations execute, or none`,
    );
    assert.deepEqual([operation.kind, operation.hostId], [kind, hostId]);
    return operation;
  }

  async pausedByDrain(): Promise<SandboxId> {
    const pause = await this.only("pause", "here");
    await this.scheduler.complete(pause.id, { state: "paused", snapshot: STORED });
    return pause.sandboxId;
  }

  async sandbox(id: SandboxId): Promise<SandboxRow> {
    return await this.scheduler.sandbox(id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { id, used, sum } of await this.scheduler.used()) assert.deepEqual(used, sum, id);
    await this.scheduler[Symbol.asyncDispose]();
  }
}
