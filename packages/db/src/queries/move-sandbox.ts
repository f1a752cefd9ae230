/**
 * Rows of sandboxes, and outbox messages of transactions without a plan. Plans move sandboxes
 * (apply-plans.ts).
 */
import type { Cause, HostId, SandboxEventType } from "@torpor/contracts";
import { eq, or } from "drizzle-orm";
import type { Tx } from "../database.ts";
import { type hosts, outbox, sandboxes } from "../schema.ts";
import type { OutboxRow } from "./outbox.ts";

export type SandboxRow = typeof sandboxes.$inferSelect;

/** Columns that are set once, when the sandbox is made. */
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
/** Columns that a plan sets by itself. */
type OwnColumn =
  | "state"
  | "settledState"
  | "generation"
  | "lastSeq"
  | "updatedAt"
  | "envVars"
  | "envVarsSealed";
type Patch = Partial<Omit<SandboxRow, (typeof FIXED_COLUMNS)[number] | OwnColumn>>;

export interface OutboxMessage {
  subject: string;
  payload: unknown;
  traceId?: string | null | undefined;
}

/** Changes that no plan of packages/plans makes: the owner's settings. */
export interface Change {
  fact: SandboxEventType;
  patch?: Patch;
  cause?: Cause | undefined;
}

export async function insertOutbox(tx: Tx, messages: OutboxMessage[]): Promise<OutboxRow[]> {
  if (messages.length === 0) return [];
  const written = messages.map(({ subject, payload, traceId = null }) => ({
    subject,
    payload,
    traceId,
  }));
  const rows = await tx.insert(outbox).values(written).returning({ id: outbox.id });
  return rows.flatMap(({ id }, index) => {
    const message = written[index];
    return message === undefined ? [] : [{ id, ...message }];
  });
}

/** Sandboxes that are resident on the host, also while another host fetches them from it. */
export const isResidentOn = (hostId: HostId | typeof hosts.id) =>
  or(eq(sandboxes.hostId, hostId), eq(sandboxes.originHostId, hostId));
