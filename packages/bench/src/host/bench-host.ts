/**
 * A host without virtual machines, which completes each command at once: the benchmark then
 * measures the control plane. The host sends all its messages by the node-agent's own code.
 */
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { type Bus, connectBus, consume } from "@torpor/bus";
import {
  decoder,
  hostCommands,
  type HostId,
  type Observation,
  ReceivedCommand,
  type RegisterRequest,
} from "@torpor/contracts";
import { heartbeat, commitAsker, keepLease, type Membership, Reporter } from "@torpor/node-agent";
import type { Logger } from "@torpor/service";
import { backedOut, carriedOut, type Command, FINGERPRINT, judge, type Kept } from "./answers.ts";
import type { BenchHostsSettings } from "./settings.ts";

const decodeCommand = decoder(ReceivedCommand);
const COMMANDS_AT_ONCE = 64;
const DISK_FREE_MIB = 1_000_000;
const STARTS = { startsAtOnce: 1_024, startsRunning: 0, startsWaiting: 0 };
/** Larger than any load needs: failing placements are not measured. */
const CAPACITY = { vcpu: 100_000, memoryMib: 100_000_000, diskMib: 1_000_000_000 };
const RESOURCES = { vcpu: 1, memoryMib: 16, diskMib: 16 };

type Access = BenchHostsSettings["hosts"][number];

export interface BenchHostOptions {
  access: Access;
  natsUrl: string;
  template: BenchHostsSettings["template"];
  /** Sandboxes at the start of the host. */
  sandboxes: Kept[];
  signal: AbortSignal;
  log: Logger;
}

export interface BenchHost {
  readonly membership: Membership;
  close(): Promise<void>;
}

export async function startBenchHost(options: BenchHostOptions): Promise<BenchHost> {
  const { access, natsUrl, template, signal } = options;
  const { hostId, tls } = access;
  const log = options.log.child({ hostId });
  const seed = await readFile(access.natsSeedFile, "utf8");
  const bus = await connectBus({
    url: natsUrl,
    name: `bench-${hostId}`,
    seed,
    tlsFiles: tls,
    hostId,
  });
  const reporter = new Reporter(log);
  const sandboxes = new Sandboxes(
    bus,
    hostId,
    options.sandboxes,
    (seen) => reporter.report(seen),
    log,
  );
  const membership: Membership = { isRegistered: false };
  // There is nothing to freeze, and no fence to renew.
  const fence = { look: async () => true, renew: async () => {} };
  const look = () => ({
    inventory: sandboxes.inventory(),
    diskFreeMib: DISK_FREE_MIB,
    starts: STARTS,
  });
  const loops = [
    reporter.run(bus, signal),
    keepLease(bus, registrationOf(hostId, template), membership, fence, signal, log),
    heartbeat(bus, hostId, look, membership, signal),
    consume(bus, {
      consumer: hostCommands(hostId),
      decode: decodeCommand,
      handle: async (command) => {
        if (command.hostId !== hostId) return "reject";
        void sandboxes.execute(command);
        return "ack";
      },
      concurrency: COMMANDS_AT_ONCE,
      signal,
      log,
    }),
  ];
  return {
    membership,
    close: async () => {
      await Promise.allSettled(loops);
      await bus.close();
    },
  };
}

class Sandboxes {
  private readonly commit: ReturnType<typeof commitAsker>;
  private readonly kept: Map<string, Kept>;
  private readonly report: (seen: Observation) => void;
  private readonly log: Logger;

  constructor(
    bus: Bus,
    hostId: HostId,
    kept: Kept[],
    report: (seen: Observation) => void,
    log: Logger,
  ) {
    this.commit = commitAsker(bus, hostId);
    this.kept = new Map(kept.map((one) => [one.seen.sandboxId, one]));
    this.report = report;
    this.log = log;
  }

  inventory(): Observation[] {
    return Array.from(this.kept.values(), ({ seen }) => seen);
  }

  async execute(command: Command): Promise<void> {
    const { kind, epoch, opSeq, operationId } = command;
    const { sandboxId } = command.spec;
    const kept = this.kept.get(sandboxId);
    const judgement = judge(kept, command);
    if (judgement === "ignore") return;
    if (judgement === "repeat") return kept === undefined ? undefined : this.report(kept.seen);
    if (judgement === "ask_commit") {
      const answer = await this.commit({ sandboxId, operationId, epoch, opSeq });
      if (answer.kind === "refused") {
        this.log.warn({ sandboxId, kind, reason: answer.reason }, "commit refused");
        const error = { code: "COMMIT_REFUSED", message: answer.reason };
        return this.keep(backedOut(kept, command, error));
      }
    }
    this.keep(carriedOut(kept, command));
  }

  private keep(kept: Kept): void {
    const { seen } = kept;
    if (seen.state === "deleted") this.kept.delete(seen.sandboxId);
    else this.kept.set(seen.sandboxId, kept);
    this.report(seen);
  }
}

function registrationOf(hostId: HostId, template: BenchHostsSettings["template"]): RegisterRequest {
  return {
    type: "register",
    version: 1,
    hostId,
    region: "local",
    dataPlaneUrl: "https://127.0.0.1:9",
    ticketKey: randomBytes(32).toString("hex"),
    capacity: CAPACITY,
    labels: {},
    driver: "simulated",
    driverFingerprint: FINGERPRINT,
    restorableFingerprints: [FINGERPRINT],
    agentVersion: "0.1.0",
    images: [
      {
        templateName: template.name,
        sha256: template.imageSha256,
        displayName: "Bench",
        description: "No virtual machine",
        language: "python",
        category: "bench",
        defaults: RESOURCES,
      },
    ],
  };
}
