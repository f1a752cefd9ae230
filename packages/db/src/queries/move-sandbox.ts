/** Moves a sandbox as part of a transaction that changes more. What changes nothing else is a plan (apply-plans.ts). */
import type { Cause, SandboxEventType } from "@torpor/contracts";
import { planMoves } from "@torpor/plans";
import type { SandboxState } from "@torpor/state-machine";
import { eq, or } from "drizzle-orm";
import type { Tx } from "../client.ts";
import { type hosts, outbox, sandboxes } from "../schema.ts";
import { applyPlan } from "./apply-plans.ts";
import type { OutboxRow } from "./outbox.ts";

export type SandboxRow = typeof sandboxes.$inferSelect;

/** Columns that a sandbox is made with, and keeps. */
export const FIXED_COLUMNS = [
  "id",
  "organizationId",
  "templateId",
  "templateName",
  "imageSha256",
  "region",
  "vcpu",
  "memoryMib",
  "diskMib",
  "internetAccess",
  "placementLabels",
  "antiAffinity",
  "edgeAddress",
  "createdAt",
] as const satisfies (keyof SandboxRow)[];
/** Columns that every plan sets by itself. */
type OwnColumn = "state" | "settledState" | "generation" | "lastSeq" | "updatedAt" | "envVars" | "envVarsSealed";
type Patch = Partial<Omit<SandboxRow, (typeof FIXED_COLUMNS)[number] | OwnColumn>>;

export interface OutboxMessage {
  subject: string;
  payload: unknown;
  traceId?: string | null | undefined;
}

export interface Move {
  /** As read; its generation is the compare-and-set key. */
  sandbox: SandboxRow;
  to: SandboxState;
  fact: SandboxEventType;
  patch?: Patch;
  operation?: { id: string; status: string };
  cause?: Cause | undefined;
  /** Further messages that must go out if and only if this move happens, e.g. a command. */
  messages?: OutboxMessage[];
}

export type MoveResult =
  | { kind: "moved"; sandbox: SandboxRow; messages: OutboxRow[] }
  | { kind: "lost_race" }
  /** The host has not enough left. The transaction must be rolled back: nothing else of it may stand. */
  | { kind: "no_capacity"; hostId: string };

/** Call it inside a transaction and roll back on anything but `moved`: see `inTransaction`. */
export async function moveSandbox(tx: Tx, { sandbox, messages = [], ...move }: Move): Promise<MoveResult> {
  const further = messages.map(({ subject, payload, traceId = null }) => ({ subject, payload, traceId }));
  const plan = planMoves(sandbox, [move], { messages: further });
  const applied = await applyPlan(tx, plan);
  if (applied.kind === "lost_race" || applied.kind === "no_capacity") return applied;
  if (applied.kind !== "applied") throw new Error(`a move that waits, chooses no host and queues nothing was ${applied.kind}`);
  const cleared = plan.clearsEnvironment ? { envVars: {}, envVarsSealed: null } : {};
  return { kind: "moved", sandbox: { ...sandbox, ...plan.after, ...cleared, updatedAt: applied.at }, messages: applied.messages };
}

export async function insertOutbox(tx: Tx, messages: OutboxMessage[]): Promise<OutboxRow[]> {
  if (messages.length === 0) return [];
  const written = messages.map(({ subject, payload, traceId = null }) => ({ subject, payload, traceId }));
  const rows = await tx.insert(outbox).values(written).returning({ id: outbox.id });
  return rows.flatMap(({ id }, index) => {
    const message = written[index];
    return message === undefined ? [] : [{ id, ...message }];
  });
}

/** Sandboxes that lie on the host, or have not yet arrived where they were sent from it. */
export const liesOn = (hostId: string | typeof hosts.id) => or(eq(sandboxes.hostId, hostId), eq(sandboxes.originHostId, hostId));
