/** A bench host's result of a command: the final state of a real host, at once. */
import type {
  Cause,
  HostId,
  Observation,
  OBSERVED_STATES,
  ReceivedCommand,
  SandboxId,
} from "@torpor/contracts";
import type { Static } from "typebox";
import { manifestOf } from "../scale/filled.ts";

export type Command = Static<typeof ReceivedCommand>;

/** What a bench host keeps of a sandbox. */
export interface Kept {
  seen: Observation;
  /** Snapshots so far. */
  generation: number;
}

/** The same for all bench hosts: each can restore every snapshot. */
export const FINGERPRINT = "bench-1";
export const SNAPSHOT_BYTES = 123_456_789;
const RESIDENT_BYTES = 100_000_000;

type State = (typeof OBSERVED_STATES)[number];
const COMES_TO: Readonly<Record<string, State>> = {
  create: "running",
  resume: "running",
  start: "running",
  pause: "paused",
  stop: "stopped",
  delete: "deleted",
  discard: "deleted",
};
/** Commands without a point of no return, so without a commit request. */
const UNASKED: readonly string[] = ["delete", "discard"];

export type Judgement = "carry_out" | "ask_commit" | "repeat" | "ignore";

/** SV1 of the node-agent: (epoch, opSeq) only rises; lower is stale, equal is a repeat. */
export function judge(kept: Kept | undefined, command: Command): Judgement {
  if (COMES_TO[command.kind] === undefined) return "ignore";
  if (kept !== undefined) {
    const order = command.epoch - kept.seen.epoch || command.opSeq - kept.seen.opSeq;
    if (order < 0) return "ignore";
    if (order === 0) return "repeat";
  }
  return UNASKED.includes(command.kind) ? "carry_out" : "ask_commit";
}

/** The sandbox after the command has run. */
export function carriedOut(kept: Kept | undefined, command: Command): Kept {
  const state = COMES_TO[command.kind] ?? "failed";
  const before = kept?.generation ?? command.snapshot?.generation ?? 0;
  const isHeld = state === "paused" || state === "stopped";
  const generation = isHeld ? before + 1 : before;
  const held = isHeld ? { snapshot: snapshotOf(command.spec.sandboxId, generation) } : {};
  const run = { vmm: { pid: process.pid, residentBytes: RESIDENT_BYTES } };
  const operation = { id: command.operationId, outcome: "succeeded" } as const;
  return {
    generation,
    seen: {
      ...next(kept, command, state),
      operation,
      ...held,
      ...(state === "running" ? run : {}),
    },
  };
}

/** The sandbox after the commit was refused. */
export function backedOut(kept: Kept | undefined, command: Command, error: Cause): Kept {
  const operation = { id: command.operationId, outcome: "cancelled", error } as const;
  const { snapshot, vmm } = kept?.seen ?? {};
  return {
    generation: kept?.generation ?? 0,
    seen: {
      ...next(kept, command, kept?.seen.state ?? "failed"),
      operation,
      ...(snapshot === undefined ? {} : { snapshot }),
      ...(vmm === undefined ? {} : { vmm }),
    },
  };
}

/** A paused sandbox of the filled database. */
export function filledWith(hostId: HostId, sandboxId: SandboxId): Kept {
  const generation = 1;
  return {
    generation,
    seen: {
      type: "observation",
      version: 1,
      hostId,
      sandboxId,
      epoch: 1,
      opSeq: 2,
      revision: 2,
      state: "paused",
      snapshot: snapshotOf(sandboxId, generation),
      observedAt: new Date().toISOString(),
    },
  };
}

function snapshotOf(
  sandboxId: SandboxId,
  generation: number,
): NonNullable<Observation["snapshot"]> {
  return {
    generation,
    sizeBytes: SNAPSHOT_BYTES,
    manifestSha256: manifestOf(sandboxId, generation),
    guestSynced: true,
    storeKey: null,
    driverFingerprint: FINGERPRINT,
  };
}

function next(kept: Kept | undefined, command: Command, state: State): Observation {
  const { hostId, epoch, opSeq, spec } = command;
  return {
    type: "observation",
    version: 1,
    hostId,
    sandboxId: spec.sandboxId,
    epoch,
    opSeq,
    revision: (kept?.seen.revision ?? 0) + 1,
    state,
    timingsMs: { ask_commit: 1, save_memory: 1, restore: 1 },
    observedAt: new Date().toISOString(),
  };
}
