/** Rows of sandboxes. Plans move sandboxes (apply-plans.ts). */
import type { Cause, HostId, SandboxEventType } from "@torpor/contracts";
import { eq, or } from "drizzle-orm";
import { type hosts, sandboxes } from "../../schema.ts";

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

/** Changes that no plan of packages/plans makes: the owner's settings. */
export interface Change {
  fact: SandboxEventType;
  patch?: Patch;
  cause?: Cause | undefined;
}

/** Sandboxes that are resident on the host, also while another host fetches them from it. */
export const isResidentOn = (hostId: HostId | typeof hosts.id) =>
  or(eq(sandboxes.hostId, hostId), eq(sandboxes.originHostId, hostId));
