/**
 * The one way to change a sandbox: compare-and-set on `generation` + capacity + event row + outbox rows, in one transaction.
 *
 * M1  Nothing else updates `sandboxes` (but for clocks that no state depends on: `last_active_at`, and of a tombstone `updated_at`, when its host was last told; and the form in which
 *     environment variables are kept, env-vars.ts), inserts into
 *     `sandbox_events` or changes `hosts.*_used`.
 * M2  `lost_race` means that another writer was first: read again, then decide again.
 * M3  What a sandbox holds of hosts is derived from its row (host_id, origin_host_id, holds_memory, state), so that used capacity is always the sum over the rows.
 * M4  Event sequence numbers are gap-free, because they are handed out by the row that is compared and set.
 * M5  While it is brought from one host to another its disk is reserved on both: it can always go back. `origin_host_id` ends with any settled state, whoever moved it there.
 */
import { isSettled, isTombstoned, type SandboxState, type SettledState } from "@torpor/state-machine";
import { type Cause, type SandboxEventMessage, subjects } from "@torpor/contracts";
import { and, eq, ne, or, sql } from "drizzle-orm";
import type { Tx } from "../client.ts";
import { hosts, outbox, sandboxEvents, sandboxes } from "../schema.ts";

export type SandboxRow = typeof sandboxes.$inferSelect;
type Patch = Partial<Omit<typeof sandboxes.$inferInsert, "id" | "state" | "settledState" | "generation" | "lastSeq" | "updatedAt">>;

export interface OutboxMessage {
  subject: string;
  payload: unknown;
  traceId?: string | undefined;
}

export interface Move {
  /** As read; its generation is the compare-and-set key. */
  sandbox: SandboxRow;
  to: SandboxState;
  /** What happened, past tense, snake_case: the event's name and the last token of its subject. */
  fact: string;
  patch?: Patch;
  operation?: { id: string; status: string };
  cause?: Cause | undefined;
  /** It says where the sandbox is, and asks for nothing: what it comes to hold lies there already, and is counted however much is left. */
  isFact?: boolean;
  /** Further messages that must go out if and only if this move happens, e.g. a command. */
  messages?: OutboxMessage[];
}

export type MoveResult =
  | { kind: "moved"; sandbox: SandboxRow; outboxIds: number[] }
  | { kind: "lost_race" }
  /** The host has not enough left. The transaction must be rolled back: nothing else of it may stand. */
  | { kind: "no_capacity"; hostId: string };

/** Call it inside a transaction and roll back on anything but `moved`: see `inTransaction`. */
export async function moveSandbox(tx: Tx, move: Move): Promise<MoveResult> {
  const { sandbox, to } = move;
  const settled: SettledState = isSettled(to) ? to : sandbox.settledState;
  const [after] = await tx
    .update(sandboxes)
    .set({
      ...move.patch,
      ...(isSettled(to) || isTombstoned(to) ? { originHostId: null } : {}),
      // Nobody needs them any more.
      ...(isTombstoned(to) ? { envVars: {}, envVarsSealed: null } : {}),
      state: to,
      settledState: settled,
      generation: sql`${sandboxes.generation} + 1`,
      lastSeq: sql`${sandboxes.lastSeq} + 1`,
      updatedAt: sql`now()`,
    })
    .where(and(eq(sandboxes.id, sandbox.id), eq(sandboxes.generation, sandbox.generation)))
    .returning();
  if (after === undefined) return { kind: "lost_race" };
  const short = await applyHoldings(tx, holdings(sandbox), holdings(after), move.isFact === true);
  if (short !== undefined) return { kind: "no_capacity", hostId: short };
  const [event] = await tx
    .insert(sandboxEvents)
    .values({
      sandboxId: after.id,
      seq: after.lastSeq,
      fact: move.fact,
      fromState: sandbox.state,
      toState: to,
      generation: after.generation,
      epoch: after.epoch,
      operationId: move.operation?.id ?? null,
      cause: move.cause ?? null,
    })
    .returning({ occurredAt: sandboxEvents.occurredAt });
  const announcement = {
    subject: subjects.sandboxEvent(after.id, move.fact),
    payload: eventMessage(move, after, event?.occurredAt ?? after.updatedAt),
  };
  const outboxIds = await insertOutbox(tx, [announcement, ...(move.messages ?? [])]);
  return { kind: "moved", sandbox: after, outboxIds };
}

export async function insertOutbox(tx: Tx, messages: OutboxMessage[]): Promise<number[]> {
  if (messages.length === 0) return [];
  const rows = await tx
    .insert(outbox)
    .values(messages.map((message) => ({ subject: message.subject, payload: message.payload, traceId: message.traceId ?? null })))
    .returning({ id: outbox.id });
  return rows.map((row) => row.id);
}

function eventMessage(move: Move, after: SandboxRow, occurredAt: Date): SandboxEventMessage {
  return {
    type: "sandbox_event",
    version: 1,
    sandboxId: after.id,
    seq: after.lastSeq,
    fact: move.fact,
    from: move.sandbox.state,
    to: move.to,
    generation: after.generation,
    epoch: after.epoch,
    ...(move.operation === undefined ? {} : { operationId: move.operation.id, operationStatus: move.operation.status }),
    occurredAt: occurredAt.toISOString(),
  };
}

interface Delta {
  vcpu: number;
  memoryMib: number;
  diskMib: number;
}
type Holding = Delta & { hostId: string };

/** Sandboxes that lie on the host, or have not yet arrived where they were sent from it. */
export const liesOn = (hostId: string | typeof hosts.id) => or(eq(sandboxes.hostId, hostId), eq(sandboxes.originHostId, hostId));

/** What a row reserves on its hosts. */
function holdings({ state, hostId, originHostId, holdsMemory, vcpu, memoryMib, diskMib }: SandboxRow): Holding[] {
  if (state === "deleted") return [];
  const disk = { vcpu: 0, memoryMib: 0, diskMib };
  return [
    ...(hostId === null ? [] : [{ ...disk, hostId, ...(holdsMemory ? { vcpu, memoryMib } : {}) }]),
    ...(originHostId === null ? [] : [{ ...disk, hostId: originHostId }]),
  ];
}

/** Adds the difference to the hosts' `used`, in order of host id so that two moves cannot deadlock. Returns the host that has not enough left. */
async function applyHoldings(tx: Tx, before: Holding[], after: Holding[], isFact: boolean): Promise<string | undefined> {
  const deltas = new Map<string, Delta>();
  const add = (holding: Holding, sign: 1 | -1) => {
    const delta = deltas.get(holding.hostId) ?? { vcpu: 0, memoryMib: 0, diskMib: 0 };
    delta.vcpu += sign * holding.vcpu;
    delta.memoryMib += sign * holding.memoryMib;
    delta.diskMib += sign * holding.diskMib;
    deltas.set(holding.hostId, delta);
  };
  for (const holding of before) add(holding, -1);
  for (const holding of after) add(holding, 1);
  for (const [hostId, delta] of [...deltas].toSorted(([a], [b]) => a.localeCompare(b))) {
    if (delta.vcpu === 0 && delta.memoryMib === 0 && delta.diskMib === 0) continue;
    if (!(await (isFact ? count : claim)(tx, hostId, delta))) return hostId;
  }
  return undefined;
}

const usedAfter = (delta: Delta) => ({
  vcpuUsed: sql`${hosts.vcpuUsed} + ${delta.vcpu}`,
  memoryMibUsed: sql`${hosts.memoryMibUsed} + ${delta.memoryMib}`,
  diskMibUsed: sql`${hosts.diskMibUsed} + ${delta.diskMib}`,
});

/** False: the host has not enough left. */
async function claim(tx: Tx, hostId: string, delta: Delta): Promise<boolean> {
  const claimed = await tx
    .update(hosts)
    .set(usedAfter(delta))
    .where(
      and(
        eq(hosts.id, hostId),
        // Placement looked at the host before: it may be retired since.
        delta.diskMib > 0 || delta.memoryMib > 0 ? ne(hosts.state, "retired") : undefined,
        // A release is never refused, even on a host whose capacity was lowered below what it carries.
        sql`(${delta.vcpu}::int <= 0 OR ${hosts.vcpuUsed} + ${delta.vcpu} <= ${hosts.vcpuCapacity})`,
        sql`(${delta.memoryMib}::int <= 0 OR ${hosts.memoryMibUsed} + ${delta.memoryMib} <= ${hosts.memoryMibCapacity})`,
        sql`(${delta.diskMib}::int <= 0 OR ${hosts.diskMibUsed} + ${delta.diskMib} <= ${hosts.diskMibCapacity})`,
      ),
    )
    .returning({ id: hosts.id });
  return claimed.length === 1;
}

/** Where more is there than the host has offered, the capacity is raised to it: what it offers counts again from its next registration on, as far as it is free. */
async function count(tx: Tx, hostId: string, delta: Delta): Promise<boolean> {
  const used = usedAfter(delta);
  const counted = await tx
    .update(hosts)
    .set({
      ...used,
      vcpuCapacity: sql`greatest(${hosts.vcpuCapacity}, ${used.vcpuUsed})`,
      memoryMibCapacity: sql`greatest(${hosts.memoryMibCapacity}, ${used.memoryMibUsed})`,
      diskMibCapacity: sql`greatest(${hosts.diskMibCapacity}, ${used.diskMibUsed})`,
    })
    .where(eq(hosts.id, hostId))
    .returning({ id: hosts.id });
  return counted.length === 1;
}
