/** The rows that decisions are made from: many sandboxes in one statement. */
import type { OperationId, SandboxId } from "@torpor/contracts";
import type { View } from "@torpor/plans";
import { sql } from "drizzle-orm";
import type { Tx } from "../../database.ts";
import { hosts, incarnations, operations, sandboxes, snapshots } from "../../schema.ts";
import type { OperationRow } from "../operations/operations.ts";
import type { PlacementHost } from "../hosts/placement.ts";
import type { IncarnationRow } from "../incarnations/incarnations.ts";
import { rowFrom } from "../row-from.ts";
import type { StoredSnapshotRow } from "../snapshots/snapshots.ts";
import type { SandboxRow } from "./sandbox-row.ts";

/** The sandbox whose view is wanted, and the rows that are selected by name. */
export interface WantedView {
  /** The sandbox; instead of it, `operationId` names an operation of the sandbox. */
  sandboxId?: SandboxId | undefined;
  operationId?: OperationId | undefined;
  manifestSha256?: string | undefined;
  epoch?: number | undefined;
  /** For a request: pending resumes and restores, and the operation that has the key. */
  request?: { organizationId: number; idempotencyKey?: string | undefined } | undefined;
}

type Environment = Pick<SandboxRow, "envVars" | "envVarsSealed">;

/** Rows as stored, but environment variables, which may be long, only during a create. */
export interface SandboxRows extends View {
  sandbox: Omit<SandboxRow, keyof Environment> & Partial<Environment>;
  executing: OperationRow | undefined;
  waiting: OperationRow | undefined;
  snapshot: StoredSnapshotRow | undefined;
  newestRun: IncarnationRow | undefined;
  /**
   * For a request about a sandbox at rest: its host, if that is ready and schedulers place by
   * `local-first`.
   */
  home: PlacementHost | undefined;
  named: {
    operation?: OperationRow | undefined;
    repeat?: OperationRow | undefined;
    snapshot?: StoredSnapshotRow | undefined;
    run?: IncarnationRow | undefined;
  };
}

type Found = Record<
  | "sandbox"
  | "executing"
  | "waiting"
  | "snapshot"
  | "newestRun"
  | "home"
  | "namedOperation"
  | "repeat"
  | "namedSnapshot"
  | "namedRun",
  Record<string, unknown> | null
> & { at: number; isOwed: boolean | null };

/** In the order of `wanted`; undefined: no such sandbox, or no such operation. */
export async function readViews(
  db: Tx,
  wanted: WantedView[],
): Promise<(SandboxRows | undefined)[]> {
  const asked = JSON.stringify(
    wanted.map(({ request, ...one }, at) => ({
      ...one,
      at,
      isRequest: request !== undefined,
      ...request,
    })),
  );
  // Lookups by index, row by row: the cached plan may date from when the tables were small. No
  // condition on an id has a subquery or coalesce(): behind the policies of gateways the server
  // takes both for able to leak the rows that a policy hides, and uses no index for them.
  const found = await db.execute(sql`
    SELECT asked.at,
      CASE WHEN sandbox.state = 'creating' THEN to_jsonb(sandbox)
        ELSE to_jsonb(sandbox) - 'env_vars' - 'env_vars_sealed' END AS sandbox,
      (SELECT to_jsonb(one) FROM operations one WHERE one.sandbox_id = sandbox.id
        AND one.status IN ('executing', 'outcome_unknown')) AS executing,
      (SELECT to_jsonb(one) FROM operations one WHERE one.sandbox_id = sandbox.id
        AND one.status = 'waiting') AS waiting,
      (SELECT to_jsonb(one) FROM snapshots one WHERE one.sandbox_id = sandbox.id
        AND one.dropped_at IS NULL ORDER BY one.generation DESC LIMIT 1) AS snapshot,
      (SELECT to_jsonb(one) FROM incarnations one WHERE one.sandbox_id = sandbox.id
        AND one.epoch = sandbox.epoch) AS "newestRun",
      (SELECT to_jsonb(one) FROM operations one
        WHERE one.id = asked."operationId") AS "namedOperation",
      (SELECT to_jsonb(one) FROM snapshots one WHERE one.sandbox_id = sandbox.id
        AND one.manifest_sha256 = asked."manifestSha256"
        ORDER BY one.generation DESC LIMIT 1) AS "namedSnapshot",
      (SELECT to_jsonb(one) FROM incarnations one WHERE one.sandbox_id = sandbox.id
        AND one.epoch = asked.epoch) AS "namedRun",
      (SELECT to_jsonb(one) FROM operations one
        WHERE one.organization_id = asked."organizationId"
          AND one.idempotency_key = asked."idempotencyKey") AS repeat,
      CASE WHEN asked."isRequest" THEN
        EXISTS (SELECT FROM drain_sandboxes one
          WHERE one.sandbox_id = sandbox.id AND one.ended_at IS NULL AND one.owes_resume)
        OR EXISTS (SELECT FROM incarnations one
          WHERE one.sandbox_id = sandbox.id AND one.restore_due_at IS NOT NULL) END AS "isOwed",
      CASE WHEN asked."isRequest" AND sandbox.state IN ('paused', 'stopped') THEN
        (SELECT to_jsonb(one) - 'images' - 'load' FROM hosts one
          WHERE one.id = sandbox.host_id AND one.state = 'ready' AND one.revoked_at IS NULL
            AND one.lease_expires_at > now()
            AND EXISTS (SELECT FROM lease_service WHERE places_at_home)) END AS home
    FROM jsonb_to_recordset(${asked}::jsonb) AS asked(
      at int, "sandboxId" text, "operationId" text, "manifestSha256" text, epoch int,
      "isRequest" boolean, "organizationId" int, "idempotencyKey" text)
    LEFT JOIN LATERAL (
      SELECT sandbox_id FROM operations
      WHERE operations.id = asked."operationId" AND asked."sandboxId" IS NULL
      LIMIT 1) named ON true
    CROSS JOIN LATERAL (
      SELECT * FROM sandboxes
      WHERE id = CASE WHEN asked."sandboxId" IS NULL THEN named.sandbox_id
        ELSE asked."sandboxId" END
      LIMIT 1) sandbox`);
  const views: (SandboxRows | undefined)[] = wanted.map(() => undefined);
  for (const row of found as unknown as Found[]) views[row.at] = viewOf(row);
  return views;
}

/** The view of one sandbox. */
export async function readView(db: Tx, wanted: WantedView): Promise<SandboxRows | undefined> {
  return (await readViews(db, [wanted]))[0];
}

function viewOf(found: Found): SandboxRows {
  return {
    sandbox: rowFrom<SandboxRows["sandbox"]>(sandboxes, found.sandbox) ?? raise(),
    executing: rowFrom<OperationRow>(operations, found.executing),
    waiting: rowFrom<OperationRow>(operations, found.waiting),
    snapshot: rowFrom<StoredSnapshotRow>(snapshots, found.snapshot),
    newestRun: rowFrom<IncarnationRow>(incarnations, found.newestRun),
    isOwed: found.isOwed ?? undefined,
    home: homeFrom(found.home),
    named: {
      operation: rowFrom<OperationRow>(operations, found.namedOperation),
      repeat: rowFrom<OperationRow>(operations, found.repeat),
      snapshot: rowFrom<StoredSnapshotRow>(snapshots, found.namedSnapshot),
      run: rowFrom<IncarnationRow>(incarnations, found.namedRun),
    },
  };
}

/**
 * Other starts of the host are not counted: nothing is fetched at home, so the sandbox waits there.
 */
function homeFrom(found: Found["home"]): PlacementHost | undefined {
  const row = rowFrom<Omit<PlacementHost, "startsAtOnce" | "startsUnderWay">>(hosts, found);
  return row && { ...row, startsAtOnce: null, startsUnderWay: 0 };
}

function raise(): never {
  throw new Error("a view was read without its sandbox");
}
