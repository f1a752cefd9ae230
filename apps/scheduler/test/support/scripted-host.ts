/**
 * A host that a test controls: it registers, keeps its lease, reads its commands and reports over
 * the real bus, as an agent would. It runs nothing.
 */
import { request, type Bus, connectBus, consume, publish, publishCore } from "@torpor/bus";
import {
  CommitReply,
  type Decoder,
  decoder,
  hostCommands,
  type HostId,
  LeaseReply,
  newOperationId,
  type Observation,
  type OperationId,
  type Question,
  type RegisterRequest,
  subjects,
  unverifiedHostId,
  VmCommand,
} from "@torpor/contracts";
import { aHost, anObservation, type NatsServer, silentLog, until } from "@torpor/testkit";
import { SNAPSHOT } from "./decisions.ts";

const decodeCommand = decoder(VmCommand);
const LEASE_EVERY_MS = 1_000;
const REQUEST_LIMIT_MS = 5_000;
const REACHES = {
  create: "running",
  resume: "running",
  start: "running",
  pause: "paused",
  stop: "stopped",
  delete: "deleted",
} as const;
type Kind = keyof typeof REACHES;

export class ScriptedHost implements AsyncDisposable {
  readonly id: HostId;
  /** In order of arrival, repeats included. */
  readonly commands: VmCommand[] = [];
  /** Runs its commands without being prompted by the test. */
  isDiligent = false;
  private readonly bus: Bus;
  private readonly stopped = new AbortController();
  private loop: Promise<void> = Promise.resolve();
  private lease: NodeJS.Timeout | undefined;
  private revision = 0;

  private constructor(id: HostId, bus: Bus) {
    this.id = id;
    this.bus = bus;
  }

  static async join(
    nats: NatsServer,
    name: string,
    given: Partial<RegisterRequest> = {},
  ): Promise<ScriptedHost> {
    const id = unverifiedHostId(name);
    const bus = await connectBus({ ...nats.as(name), name, hostId: id });
    const host = new ScriptedHost(id, bus);
    const registered = await host.ask("register", aHost(id, given), decoder(LeaseReply));
    if (!registered.granted) throw new Error(`host ${id} was not let in: ${registered.reason}`);
    host.renewLease();
    host.loop = consume(bus, {
      consumer: hostCommands(id),
      decode: decodeCommand,
      handle: async (command) => {
        host.commands.push(command);
        if (host.isDiligent && command.kind in REACHES) await host.complete(command);
        return "ack";
      },
      concurrency: 16,
      signal: host.stopped.signal,
      log: silentLog(),
    });
    return host;
  }

  /** The command of an operation, once it has arrived. */
  async told(operationId: OperationId): Promise<VmCommand> {
    return await until(`${this.id} is told of ${operationId}`, () =>
      this.commands.find((command) => command.operationId === operationId),
    );
  }

  async commit(command: VmCommand): Promise<boolean> {
    const { operationId, epoch, opSeq, spec } = command;
    const request = {
      type: "commit",
      version: 1,
      hostId: this.id,
      sandboxId: spec.sandboxId,
      operationId,
      epoch,
      opSeq,
    };
    return (await this.ask("commit", request, decoder(CommitReply))).granted;
  }

  seen(command: VmCommand, given: Partial<Observation> = {}): Observation {
    const { epoch, opSeq, spec, operationId, kind } = command;
    const state = given.state ?? REACHES[kind as Kind];
    this.revision += 1;
    const operation = { id: operationId, outcome: "succeeded" } as const;
    const snapshot = state === "paused" ? { snapshot: SNAPSHOT } : {};
    return anObservation({
      hostId: this.id,
      sandboxId: spec.sandboxId,
      epoch,
      opSeq,
      revision: this.revision,
      operation,
      ...snapshot,
      ...given,
      state,
    });
  }

  async report(seen: Observation): Promise<void> {
    const message = {
      subject: subjects.observation(this.id, seen.state),
      payload: seen,
      msgId: newOperationId(),
    };
    const published = await publish(this.bus, message);
    if (published.kind !== "stored")
      throw new Error(`the observation was not taken: ${published.kind}`);
  }

  async complete(command: VmCommand, given: Partial<Observation> = {}): Promise<void> {
    await this.commit(command);
    await this.report(this.seen(command, given));
  }

  heartbeat(inventory: Observation[]): void {
    publishCore(this.bus, subjects.heartbeat(this.id), {
      type: "heartbeat",
      version: 1,
      hostId: this.id,
      agentStartedAt: new Date().toISOString(),
      load: { vms: inventory.length, residentBytes: 0, diskFreeMib: 1 },
      inventory,
      inventoryCount: inventory.length,
      inventoryDigest: "",
    });
  }

  /** Stops the renewal of the lease, until `renewLease`. */
  goSilent(): void {
    clearInterval(this.lease);
  }

  renewLease(): void {
    const renew = () =>
      void this.ask(
        "lease",
        { type: "lease", version: 1, hostId: this.id },
        decoder(LeaseReply),
      ).catch(() => {});
    renew();
    this.lease = setInterval(renew, LEASE_EVERY_MS);
  }

  private async ask<T>(question: Question, body: object, decode: Decoder<T>): Promise<T> {
    const reply = await request(this.bus, subjects.request(this.id, question), body, {
      timeoutMs: REQUEST_LIMIT_MS,
      decode,
    });
    if (reply.kind === "no_answer")
      throw new Error(`nobody answered ${question}`, { cause: reply.cause });
    return reply.value;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.goSilent();
    this.stopped.abort();
    await this.loop;
    await this.bus.close();
  }
}
