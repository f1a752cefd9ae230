/**
 * Rows of sandboxes, and messages that go out with what else a transaction writes. Sandboxes are
 * moved by plans (apply-plans.ts).
 */
import type { Cause, SandboxEventType } from "@torpor/contracts";
import { eq, or } from "drizzle-orm";
import type { Tx } from "../database.ts";
import { type hosts, outbox, sandboxes } from "../schema.ts";
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

/** Changes of a row that no plan of packages/plans makes: what its owner sets. */
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

/** Sandboxes that lie on the host, or have not yet arrived where they were sent from it. */
export const isResidentOn = (hostId: string | typeof hosts.id) =>
  or(eq(sandboxes.hostId, hostId), eq(sandboxes.originHostId, hostId));
