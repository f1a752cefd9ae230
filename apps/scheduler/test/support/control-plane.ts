/**
 * A control plane without its processes: Postgres, nats-server, and any number of schedulers that a
 * test can end.
 */
import { type Bus, connectBus } from "@torpor/bus";
import type { OperationId, SandboxId } from "@torpor/contracts";
import {
  acceptCreate,
  acceptRequest,
  type OperationRow,
  type OutboxRow,
  findOperation,
  findSandboxRow,
  type SandboxRow,
} from "@torpor/db";
import { Publisher } from "@torpor/outbox";
import {
  aRequester,
  aSandbox,
  type NatsServer,
  openTestDatabase,
  type Databases,
  silentLog,
  startNats,
  sharedPostgres,
  type TestDatabase,
  until,
} from "@torpor/testkit";
import type { Envelope, WorkProblem } from "@torpor/service";
import { startWorker, type Worker } from "../../src/worker.ts";
import { HOST_TERMS } from "./decisions.ts";

type Requester = Parameters<typeof aRequester>[1];

export class ControlPlane implements AsyncDisposable {
  readonly database: TestDatabase;
  readonly nats: NatsServer;
  readonly bus: Bus;
  private readonly postgres: Databases;
  private readonly schedulers: { worker: Worker; bus: Bus; stop: AbortController }[] = [];

  private constructor(postgres: Databases, nats: NatsServer, database: TestDatabase, bus: Bus) {
    this.postgres = postgres;
    this.nats = nats;
    this.database = database;
    this.bus = bus;
  }

  /** `shared`: the hosts of `hostIds` without a NATS account of their own. */
  static async start(
    hostIds: string[],
    schedulers = 1,
    shared: string[] = [],
    envelope?: Envelope,
  ): Promise<ControlPlane> {
    const postgres = sharedPostgres();
    const nats = await startNats(hostIds, shared);
    const database = await openTestDatabase(postgres);
    const plane = new ControlPlane(
      postgres,
      nats,
      database,
      await connectBus({ ...nats.as(), name: "gateway" }),
    );
    await Promise.all(Array.from({ length: schedulers }, () => plane.addScheduler(envelope)));
    return plane;
  }

  private async addScheduler(envelope: Envelope | undefined): Promise<void> {
    const stop = new AbortController();
    const bus = await connectBus({ ...this.nats.as(), name: "scheduler" });
    const worker = await startWorker({
      db: this.database.db,
      bus,
      log: silentLog("scheduler"),
      hostTerms: HOST_TERMS,
      signal: stop.signal,
      ...(envelope === undefined ? {} : { envelope }),
    });
    this.schedulers.push({ worker, bus, stop });
  }

  /** Creates a sandbox as the gateway does: accepted, then announced. */
  async create(
    given: Parameters<typeof aSandbox>[0] = {},
    requester: Requester = {},
  ): Promise<OperationRow> {
    return await this.announce(
      await acceptCreate(this.database.db, aSandbox(given), aRequester(this.database, requester)),
    );
  }

  async ask(
    sandboxId: SandboxId,
    verb: Parameters<typeof acceptRequest>[2],
    requester: Requester = {},
  ): Promise<OperationRow> {
    return await this.announce(
      await acceptRequest(this.database.db, sandboxId, verb, aRequester(this.database, requester)),
    );
  }

  private async announce(
    accepted:
      | { kind: string }
      | { kind: "accepted"; operation: OperationRow; messages: OutboxRow[] },
  ): Promise<OperationRow> {
    if (!("operation" in accepted)) throw new Error(`it was not accepted: ${accepted.kind}`);
    await new Publisher({ db: this.database.db, bus: this.bus, log: silentLog() }).publish(
      accepted.messages,
    );
    return accepted.operation;
  }

  /** The operation, once it is in one of the statuses. */
  async becomes(
    operationId: OperationId,
    ...statuses: OperationRow["status"][]
  ): Promise<OperationRow> {
    return await until(`operation ${operationId} is ${statuses.join(" or ")}`, async () => {
      const row = await findOperation(this.database.db, operationId);
      return row !== undefined && statuses.includes(row.status) ? row : undefined;
    });
  }

  /** Polls all of them with one query: a hundred pollers would be the load that they wait for. */
  async allSucceed(operations: OperationRow[]): Promise<void> {
    const { sql } = this.database;
    const ids = operations.map(({ id }) => id);
    await until(
      `${ids.length} operations succeed`,
      async () =>
        (await sql`SELECT 1 FROM operations WHERE id IN ${sql(ids)} AND status = 'succeeded'`)
          .length === ids.length,
      60_000,
    );
  }

  async sandbox(id: SandboxId): Promise<SandboxRow> {
    const row = await findSandboxRow(this.database.db, id);
    if (row === undefined) throw new Error(`there is no sandbox ${id}`);
    return row;
  }

  /** The sandbox, once it is in that state. */
  async reaches(id: SandboxId, state: SandboxRow["state"]): Promise<SandboxRow> {
    return await until(`sandbox ${id} is ${state}`, async () => {
      const row = await this.sandbox(id);
      return row.state === state ? row : undefined;
    });
  }

  /** Resolves when every reconciler of that name has begun and ended a round from now on. */
  async round(name: string): Promise<void> {
    for (const { worker } of this.schedulers) {
      const reconciler = worker.reconcilers.get(name);
      if (reconciler === undefined) throw new Error(`there is no reconciler ${name}`);
      // The first round may have begun before.
      for (let rounds = 0; rounds < 2; rounds += 1) {
        const before = reconciler.last();
        reconciler.kick();
        await until(`a round of ${name}`, () => reconciler.last() !== before);
      }
    }
  }

  /** Problems in the schedulers' health reports. */
  problems(): WorkProblem[] {
    return this.schedulers.flatMap(({ worker }) => worker.problems());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { stop } of this.schedulers) stop.abort();
    await Promise.all(this.schedulers.map(({ worker }) => worker.ended));
    await Promise.all(
      [this.bus, ...this.schedulers.map(({ bus }) => bus)].map((bus) => bus.close()),
    );
    await this.database[Symbol.asyncDispose]();
    await Promise.all([this.postgres[Symbol.asyncDispose](), this.nats[Symbol.asyncDispose]()]);
  }
}
