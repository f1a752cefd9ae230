/**
 * The scheduler's decisions over a real database, one call at a time and without a bus. Tests read
 * commands from the outbox, and hand observations over.
 */
import assert from "node:assert/strict";
import type { Observation, OperationId, SandboxId, VmCommand } from "@torpor/contracts";
import {
  acceptCreate,
  acceptRequest,
  type AcceptRequest,
  findOperation,
  findSandboxRow,
  listEvents,
  markLostHosts,
  type OperationRow,
  type OutboxRow,
  readDueWork,
  registerHost,
  type SandboxRow,
} from "@torpor/db";
import {
  aHost,
  anObservation,
  aRequester,
  aSandbox,
  leasesCouldBeRenewed,
  openTestDatabase,
  type Databases,
  silentLog,
  type TestDatabase,
} from "@torpor/testkit";
import { handleCommit } from "../../src/hosts/handle-host-requests.ts";
import { HostNetworks } from "../../src/hosts/host-networks.ts";
import { beginOperation } from "../../src/operations/begin-operation.ts";
import type { Deps } from "../../src/deps.ts";
import { createEnvelope } from "@torpor/service";
import { Placer } from "../../src/placement/placer.ts";
import { RECONCILERS } from "../../src/reconcilers.ts";
import { type ApplyResult, applyObservation } from "../../src/observations/apply-observation.ts";

type Verb = Parameters<typeof acceptRequest>[2];
type Seen = Pick<Observation, "state"> & Partial<Observation>;

export const HOST_TERMS = { leaseMs: 9_000, lossMarginMs: 3_000 };

export const SNAPSHOT = {
  generation: 1,
  sizeBytes: 1,
  manifestSha256: "b".repeat(64),
  guestSynced: true,
  storeKey: null,
  driverFingerprint: "scripted/1",
};

export class Decisions implements AsyncDisposable {
  readonly database: TestDatabase;
  readonly deps: Deps;
  private revision = 0;

  private constructor(database: TestDatabase) {
    this.database = database;
    const { db } = database;
    // Each decision reads new rows, because tests add and remove hosts between decisions.
    const placer = new Placer(db, { maxAgeMs: 0 });
    const envelope = createEnvelope(undefined);
    const terms = {
      vcpuOvercommit: 1,
      driveAfterMs: 0,
      hostTerms: HOST_TERMS,
      hostNetworks: new HostNetworks(""),
      hostRules: { admission: "optional", tls: "optional" } as const,
      envelope,
    };
    const publishCommitted = (rows: OutboxRow[]) => this.published(rows.map(({ id }) => id));
    this.deps = { db, log: silentLog(), placer, ...terms, publishCommitted };
  }

  /** Checks that nothing is published before its commit: another connection must see the rows. */
  private async published(ids: number[]): Promise<void> {
    const rows = await this.database.sql`SELECT id FROM outbox WHERE id = ANY(${ids})`;
    assert.equal(rows.length, ids.length, "a message was to be published before its commit");
  }

  static async over(server: Databases): Promise<Decisions> {
    return new Decisions(await openTestDatabase(server));
  }

  /** Loses the host: its lease ended `agoMs` ago, and the schedulers know. */
  async lose(hostId: string, agoMs = 60_000): Promise<void> {
    await this.database
      .sql`UPDATE hosts SET lease_expires_at = now() - ${`${agoMs} milliseconds`}::interval WHERE id = ${hostId}`;
    await leasesCouldBeRenewed(this.database);
    await markLostHosts(this.database.db, HOST_TERMS.leaseMs);
  }

  async join(hostId: string, given: Parameters<typeof aHost>[1] = {}): Promise<void> {
    await registerHost(this.database.db, aHost(hostId, given), 600_000);
  }

  /**
   * Runs one round of the reconciler. Fails if the round finds work for which schedulers would have
   * left it out.
   */
  async round(name: string): Promise<Record<string, number>> {
    const reconciler = RECONCILERS.find((one) => one.name === name);
    if (reconciler === undefined) throw new Error(`there is no reconciler ${name}`);
    const due = await readDueWork(this.database.db);
    const result = await reconciler.run(this.deps);
    const { work } = reconciler;
    const hasFound = Object.values(result).some((count) => count > 0);
    assert.ok(work === undefined || due.has(work) || !hasFound, `${name} would have been left out`);
    return result;
  }

  /** Accepts the request, without beginning its operation. */
  async ask(sandboxId: SandboxId, verb: Verb): Promise<AcceptRequest> {
    return await acceptRequest(this.database.db, sandboxId, verb, aRequester(this.database));
  }

  /** Accepts the request and begins its operation. */
  async begin(
    sandboxId: SandboxId,
    verb: Verb,
    given: Parameters<typeof aRequester>[1] = {},
  ): Promise<OperationRow> {
    const accepted = await acceptRequest(
      this.database.db,
      sandboxId,
      verb,
      aRequester(this.database, given),
    );
    if (accepted.kind !== "accepted")
      throw new Error(`the ${verb} was not accepted: ${accepted.kind}`);
    await beginOperation(this.deps, accepted.operation.id);
    return await this.operation(accepted.operation.id);
  }

  async beginCreate(
    given: Parameters<typeof aSandbox>[0] = {},
    requester: Parameters<typeof aRequester>[1] = {},
  ): Promise<OperationRow> {
    const accepted = await acceptCreate(
      this.database.db,
      aSandbox(given),
      aRequester(this.database, requester),
    );
    if (accepted.kind !== "accepted")
      throw new Error(`the create was not accepted: ${accepted.kind}`);
    await beginOperation(this.deps, accepted.operation.id);
    return await this.operation(accepted.operation.id);
  }

  /** A sandbox that runs on a host. */
  async running(given: Parameters<typeof aSandbox>[0] = {}): Promise<SandboxRow> {
    const { id, sandboxId } = await this.beginCreate(given);
    await this.complete(id, { state: "running" });
    return await this.sandbox(sandboxId);
  }

  /** A sandbox that a host has paused. */
  async paused(
    storeKey: string | null = null,
    given: Parameters<typeof aSandbox>[0] = {},
  ): Promise<SandboxRow> {
    const { id } = await this.running(given);
    await this.complete((await this.begin(id, "pause")).id, {
      state: "paused",
      snapshot: { ...SNAPSHOT, storeKey },
    });
    return await this.sandbox(id);
  }

  /**
   * Commands of an operation, or of a kind about a sandbox, in the order in which they were
   * written.
   */
  async commands(
    where: { operationId: OperationId } | { sandboxId: SandboxId; kind: string },
  ): Promise<VmCommand[]> {
    const { sql } = this.database;
    const chosen =
      "operationId" in where
        ? sql`payload->>'operationId' = ${where.operationId}`
        : sql`payload->'spec'->>'sandboxId' = ${where.sandboxId} AND payload->>'kind' = ${where.kind}`;
    const rows =
      await sql`SELECT payload FROM outbox WHERE subject LIKE '%.cmd.%' AND ${chosen} ORDER BY id`;
    return rows.map((row) => row["payload"] as VmCommand);
  }

  async command(operationId: OperationId): Promise<VmCommand> {
    const [command] = await this.commands({ operationId });
    if (command === undefined) throw new Error(`no host was told of operation ${operationId}`);
    return command;
  }

  async commit(operationId: OperationId): Promise<boolean> {
    const { hostId, epoch, opSeq, spec } = await this.command(operationId);
    const request = {
      type: "commit",
      version: 1,
      hostId,
      sandboxId: spec.sandboxId,
      operationId,
      epoch,
      opSeq,
    } as const;
    return (await handleCommit(this.deps, hostId, request)).granted;
  }

  /** A report of the operation's host, newer with each call. */
  async seenOf(operationId: OperationId, given: Seen): Promise<Observation> {
    const { hostId, epoch, opSeq, spec } = await this.command(operationId);
    this.revision += 1;
    const operation = { id: operationId, outcome: "succeeded" } as const;
    return anObservation({
      hostId,
      sandboxId: spec.sandboxId,
      epoch,
      opSeq,
      revision: this.revision,
      operation,
      ...given,
    });
  }

  async apply(seen: Observation): Promise<ApplyResult> {
    return await applyObservation(this.deps, seen, async () => {});
  }

  /** Commits, then reports. */
  async complete(operationId: OperationId, given: Seen): Promise<ApplyResult> {
    await this.commit(operationId);
    return await this.apply(await this.seenOf(operationId, given));
  }

  async operation(id: OperationId): Promise<OperationRow> {
    const row = await findOperation(this.database.db, id);
    if (row === undefined) throw new Error(`there is no operation ${id}`);
    return row;
  }

  async sandbox(id: SandboxId): Promise<SandboxRow> {
    const row = await findSandboxRow(this.database.db, id);
    if (row === undefined) throw new Error(`there is no sandbox ${id}`);
    return row;
  }

  /** All rows of a sandbox, to check that nothing has changed. */
  async record(id: SandboxId): Promise<unknown> {
    const operations = await this.database
      .sql`SELECT * FROM operations WHERE sandbox_id = ${id} ORDER BY id`;
    return {
      sandbox: await this.sandbox(id),
      operations: [...operations],
      events: await listEvents(this.database.db, id, 1000),
    };
  }

  /**
   * Per host: use by its row, beside the sum over the sandboxes on it and the disks of sandboxes
   * that are moving away from it.
   */
  async used(): Promise<{ id: string; used: number[]; sum: number[] }[]> {
    const rows = await this.database.sql`
      SELECT hosts.id, array[vcpu_used, memory_mib_used, disk_mib_used] AS used,
        array[coalesce(sum(vcpu) FILTER (WHERE holds_memory AND host_id = hosts.id), 0),
          coalesce(sum(memory_mib) FILTER (WHERE holds_memory AND host_id = hosts.id), 0), coalesce(sum(disk_mib), 0)]::int[] AS sum
      FROM hosts LEFT JOIN sandboxes ON hosts.id IN (host_id, origin_host_id) AND sandboxes.state <> 'deleted'
      GROUP BY hosts.id ORDER BY hosts.id`;
    return rows.map(({ id, used, sum }) => ({
      id: id as string,
      used: used as number[],
      sum: sum as number[],
    }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.database[Symbol.asyncDispose]();
  }
}
