/**
 * A host without a bus, in a directory: a supervisor over a given driver, and operations for tests.
 */
import { once } from "node:events";
import { type IncomingMessage, request as httpRequest } from "node:http";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import type {
  HostId,
  Observation,
  OperationId,
  SandboxId,
  SnapshotFacts,
  VmCommand,
} from "@torpor/contracts";
import {
  createBoxKey,
  createLogger,
  findProcesses,
  isAlive,
  type ProcessIdentity,
  signalProcess,
  waitUntilGone,
} from "@torpor/service";
import { until } from "@torpor/testkit/basics";
import { makeSimulatedImage } from "@torpor/testkit/simulated-image";
import type { Driver, Vm } from "../../src/drivers/driver.ts";
import { children } from "../../src/drivers/vmm-process.ts";
import { connectGuest } from "../../src/guest-connection.ts";
import { FenceFiles } from "../../src/fence/files.ts";
import { plainIsolation } from "../../src/host/isolation.ts";
import { listImages } from "../../src/images/images.ts";
import { ensureGolden } from "../../src/images/golden.ts";
import { httpGuest } from "../../src/lifecycle/guest.ts";
import { VmStore } from "../../src/lifecycle/vm-store.ts";
import type { WarmSettings } from "../../src/lifecycle/warm-pool.ts";
import { Supervisor } from "../../src/lifecycle/supervisor.ts";
import { Activity } from "../../src/data-plane/activity.ts";
import { FenceLink } from "../../src/control/fence-link.ts";
import type { Blobs } from "../../src/store/blobs.ts";
import { ChunkStore } from "../../src/store/chunk-store.ts";
import { NO_SNAPSHOT_STORE } from "../../src/store/no-store.ts";
import { peerSource } from "../../src/store/peer.ts";
import { fileBlobs } from "./snapshots.ts";

/** The same for every test's host. */
export const COMMAND_KEY = createBoxKey();
const HOST = "host-1" as HostId;
export const SANDBOX = "1795490791abcdefgh" as SandboxId;
const OPERATION_LIMIT_MS = 45_000;
const GUEST_LIMIT_MS = 5_000;
const CLOSE_LIMIT_MS = 30_000;
const KILL_LIMIT_MS = 10_000;

/**
 * Makes an image and its golden snapshot for `driver`, beside the hosts' directories. Returns the
 * image's digest.
 */
export async function prepareImages(
  imagesDir: string,
  driver: Driver,
  memoryMib?: number,
): Promise<string> {
  await mkdir(imagesDir, { recursive: true });
  const sha256 = await makeSimulatedImage(imagesDir, memoryMib);
  for (const image of await listImages(imagesDir))
    await ensureGolden(image, {
      driver,
      guest: httpGuest(driver),
      uid: undefined,
      scratchDir: join(imagesDir, ".scratch"),
      say: () => {},
    });
  return sha256;
}

export type Kind = Exclude<VmCommand["kind"], "cancel" | "discard" | "quarantine" | "unquarantine">;

/** Commands of one sandbox, in order. */
export function commandsOf(kinds: Kind[], imageSha256: string, memoryMib = 64): VmCommand[] {
  const spec = {
    sandboxId: SANDBOX,
    templateName: "code-interpreter",
    imageSha256,
    resources: { vcpu: 1, memoryMib, diskMib: 16 },
    internetAccess: false,
    envVars: {},
  };
  let epoch = 0;
  return kinds.map((kind, at) => {
    if (kind === "create" || kind === "resume" || kind === "start") epoch += 1;
    const opSeq = at + 1;
    const operationId = `op_${opSeq.toString(16).padStart(32, "0")}` as OperationId;
    const deadlineAt = "2099-01-01T00:00:00.000Z";
    return {
      type: "command",
      version: 1,
      kind,
      hostId: HOST,
      operationId,
      epoch: Math.max(1, epoch),
      opSeq,
      deadlineAt,
      spec,
    };
  });
}

export class TestHost {
  readonly supervisor: Supervisor;
  readonly fence: FenceLink;
  readonly store: VmStore;
  readonly seen: Observation[] = [];
  /** Runs while a commit is requested. Commits are granted, except for `refusedCommits`. */
  onCommit: (operationId: string) => Promise<void> = async () => {};
  /** True while the host accepts new sandboxes. */
  isOpen = true;
  readonly refusedCommits = new Set<string>();
  private readonly driver: Driver;

  constructor(
    dir: string,
    driver: Driver,
    onObservation: (observation: Observation) => void = () => {},
    imagesDir = join(dir, "../images"),
    blobs: Blobs | "none" = fileBlobs(join(dir, "store")),
    startsAtOnce = 2,
    warm: WarmSettings = { max: 0, memoryMib: 0 },
  ) {
    this.driver = driver;
    this.store = new VmStore(dir);
    this.fence = new FenceLink(new FenceFiles(dir));
    this.supervisor = new Supervisor(
      {
        hostId: HOST,
        startsAtOnce,
        warm,
        isOpen: () => this.isOpen,
        store: this.store,
        driver,
        isolation: plainIsolation(undefined),
        guest: httpGuest(driver),
        snapshots: blobs === "none" ? NO_SNAPSHOT_STORE : new ChunkStore(blobs),
        peer: (sandboxId, reference) => peerSource(sandboxId, reference),
        activity: new Activity(),
        fence: this.fence,
        commandKey: COMMAND_KEY,
        imagesDir,
        commit: async ({ operationId }) => {
          await this.onCommit(operationId);
          return this.refusedCommits.has(operationId)
            ? { kind: "refused", reason: "the test refuses it" }
            : { kind: "granted" };
        },
        uid: undefined,
        log: createLogger({ name: "host", level: "silent" }),
      },
      (observation) => {
        this.seen.push(observation);
        onObservation(observation);
      },
    );
  }

  /** Runs the command. Returns the observation of its end. */
  async complete(command: VmCommand): Promise<Observation> {
    await this.supervisor.submit(command);
    const ended = () => this.seen.findLast((seen) => isEndOf(command, seen));
    return await until(`the end of the ${command.kind}`, ended, OPERATION_LIMIT_MS);
  }

  /**
   * Runs the commands without a report so far, and writes a file after a create. Returns the
   * observation of the last one's end.
   */
  async bring(commands: VmCommand[]): Promise<Observation> {
    const done = Math.max(0, ...this.seen.map(({ opSeq }) => opSeq));
    let last: Observation | undefined;
    for (const command of commands.filter(({ opSeq }) => opSeq > done)) {
      last = await this.complete(command);
      if (command.kind === "create")
        await this.guest("/files/write", { path: "/workspace/note", content: "kept" });
    }
    if (last === undefined) throw new Error("there was nothing to do");
    return last;
  }

  /** The newest snapshot that the host reported, once it has a copy in the store. */
  async stored(): Promise<SnapshotFacts & { storeKey: string }> {
    return await until(
      "the copy in the store",
      () => {
        const snapshot = this.seen.at(-1)?.snapshot;
        return typeof snapshot?.storeKey === "string"
          ? { ...snapshot, storeKey: snapshot.storeKey }
          : undefined;
      },
      OPERATION_LIMIT_MS,
    );
  }

  /**
   * The end of the host's process: nothing of it continues, or writes to its directory. Its VMM
   * lives on.
   */
  async close(): Promise<void> {
    if (!(await this.supervisor.close(CLOSE_LIMIT_MS)))
      throw new Error("something of the host goes on after its end");
    forgetVmm(this.store.dataDir);
  }

  /** The end of the host's process and of its VMM. */
  async end(): Promise<void> {
    await this.close();
    await killVmms(vmmProcesses(this.store.dataDir));
  }

  get vm(): Vm {
    return vmIn(this.store.dataDir);
  }

  async guest(path: string, body: object): Promise<Record<string, unknown>> {
    return await callGuest(this.driver, this.vm, path, body);
  }
}

/** True if the observation reports the end of the command's operation. */
export function isEndOf({ operationId }: VmCommand, { operation, busyWith }: Observation): boolean {
  return operation?.id === operationId && busyWith === undefined;
}

/**
 * To be called when a host ends and this process does not: the next host is not the VMM's parent.
 */
export function forgetVmm(dir: string): void {
  children.delete(vmIn(dir).dir);
}

/** The sandbox's VM on the host in `dir`. */
export function vmIn(dir: string): Vm {
  const size = { vcpu: 1, memoryMib: 64 };
  return {
    dir: join(dir, "vm", SANDBOX),
    sandboxId: SANDBOX,
    ...size,
    kernelCmdline: "",
    internetAccess: false,
  };
}

/** Every VMM process of the sandbox on the host in `dir`, recorded or not. */
export function vmmProcesses(dir: string): ProcessIdentity[] {
  return findProcesses(join(dir, "vm", SANDBOX), "TORPOR_VMM", SANDBOX).filter(isAlive);
}

/** Resolves when the VMMs are gone: until then they write to their directories. */
export async function killVmms(vmms: ProcessIdentity[]): Promise<void> {
  for (const identity of vmms) signalProcess(identity, "SIGKILL");
  for (const identity of vmms)
    if (!(await waitUntilGone(identity, KILL_LIMIT_MS)))
      throw new Error(`the VMM with pid ${identity.pid} cannot be ended`);
}

export async function callGuest(
  driver: Driver,
  vm: Vm,
  path: string,
  body: object,
): Promise<Record<string, unknown>> {
  const address = await driver.guestAddress(vm);
  if (address === undefined) throw new Error("no guest runs");
  const socket = await connectGuest(address, GUEST_LIMIT_MS);
  const content = JSON.stringify(body);
  const request = httpRequest({
    createConnection: () => socket,
    method: "POST",
    path,
    headers: { "content-length": Buffer.byteLength(content) },
    signal: AbortSignal.timeout(GUEST_LIMIT_MS),
  });
  // An error after the head is noticed where the body is read.
  request.on("error", () => {});
  request.end(content);
  const [response] = (await once(request, "response")) as [IncomingMessage];
  return JSON.parse(await text(response)) as Record<string, unknown>;
}
