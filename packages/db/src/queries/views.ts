/** What decisions of many sandboxes are made from, in one statement. */
import type { View } from "@torpor/plans";
import { sql } from "drizzle-orm";
import type { Tx } from "../client.ts";
import { incarnations, operations, sandboxes, snapshots } from "../schema.ts";
import type { SandboxRow } from "./move-sandbox.ts";
import type { OperationRow } from "./operations.ts";
import { rowFrom } from "./row-from.ts";
import type { IncarnationRow, SnapshotRow } from "./sandboxes.ts";

/** Whose view is wanted, and what of it by name. */
export interface WantedView {
  /** One of the two: the sandbox, or an operation of it. */
  sandboxId?: string | undefined;
  operationId?: string | undefined;
  manifestSha256?: string | undefined;
  epoch?: number | undefined;
  /** For a request: whether it is owed anything, and what the key was used for. */
  request?: { organizationId: number; idempotencyKey?: string | undefined } | undefined;
}

type Environment = Pick<SandboxRow, "envVars" | "envVarsSealed">;

/** Rows as they are, but for environment variables, which may be long: while it is created only. */
export interface SandboxRows extends View {
  sandbox: Omit<SandboxRow, keyof Environment> & Partial<Environment>;
  executing: OperationRow | undefined;
  waiting: OperationRow | undefined;
  snapshot: SnapshotRow | undefined;
  newestRun: IncarnationRow | undefined;
  named: {
    operation?: OperationRow | undefined;
    repeat?: OperationRow | undefined;
    snapshot?: SnapshotRow | undefined;
    run?: IncarnationRow | undefined;
  };
}

type Found = Record<
  | "sandbox"
  | "executing"
  | "waiting"
  | "snapshot"
  | "newestRun"
  | "namedOperation"
  | "repeat"
  | "namedSnapshot"
  | "namedRun",
  Record<string, unknown> | null
> & { at: number; isOwed: boolean | null };

/** In the order of `wanted`; undefined: there is no such sandbox, or no such operation. */
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
  const found = await db.execute(sql`
    SELECT asked.at,
      CASE WHEN sandbox.state = 'creating' THEN to_jsonb(sandbox)
        ELSE to_jsonb(sandbox) - 'env_vars' - 'env_vars_sealed' END AS sandbox,
      to_jsonb(executing) AS executing, to_jsonb(waiting) AS waiting,
      to_jsonb(snapshot) AS snapshot, to_jsonb(newest) AS "newestRun",
      to_jsonb(operation) AS "namedOperation", to_jsonb(named) AS "namedSnapshot",
      to_jsonb(run) AS "namedRun", to_jsonb(repeat) AS repeat,
      CASE WHEN asked."isRequest" THEN
        EXISTS (SELECT FROM drain_sandboxes
          WHERE sandbox_id = sandbox.id AND ended_at IS NULL AND owes_resume)
        OR EXISTS (SELECT FROM incarnations
          WHERE sandbox_id = sandbox.id AND restore_due_at IS NOT NULL) END AS "isOwed"
    FROM jsonb_to_recordset(${asked}::jsonb) AS asked(
      at int, "sandboxId" text, "operationId" text, "manifestSha256" text, epoch int,
      "isRequest" boolean, "organizationId" int, "idempotencyKey" text)
    LEFT JOIN operations operation ON operation.id = asked."operationId"
    JOIN sandboxes sandbox ON sandbox.id = coalesce(asked."sandboxId", operation.sandbox_id)
    LEFT JOIN operations executing ON executing.sandbox_id = sandbox.id
      AND executing.status IN ('executing', 'outcome_unknown')
    LEFT JOIN operations waiting ON waiting.sandbox_id = sandbox.id AND waiting.status = 'waiting'
    LEFT JOIN incarnations newest ON newest.sandbox_id = sandbox.id AND newest.epoch = sandbox.epoch
    LEFT JOIN incarnations run ON run.sandbox_id = sandbox.id AND run.epoch = asked.epoch
    LEFT JOIN operations repeat ON repeat.organization_id = asked."organizationId"
      AND repeat.idempotency_key = asked."idempotencyKey"
    LEFT JOIN LATERAL (
      SELECT * FROM snapshots WHERE sandbox_id = sandbox.id AND dropped_at IS NULL
      ORDER BY generation DESC LIMIT 1) snapshot ON true
    LEFT JOIN LATERAL (
      SELECT * FROM snapshots WHERE sandbox_id = sandbox.id
        AND manifest_sha256 = asked."manifestSha256"
      ORDER BY generation DESC LIMIT 1) named ON true`);
  const views: (SandboxRows | undefined)[] = wanted.map(() => undefined);
  for (const row of found as unknown as Found[]) views[row.at] = viewOf(row);
  return views;
}

/** The same, of one. */
export async function readView(db: Tx, wanted: WantedView): Promise<SandboxRows | undefined> {
  return (await readViews(db, [wanted]))[0];
}

function viewOf(found: Found): SandboxRows {
  return {
    sandbox: rowFrom<SandboxRows["sandbox"]>(sandboxes, found.sandbox) ?? raise(),
    executing: rowFrom<OperationRow>(operations, found.executing),
    waiting: rowFrom<OperationRow>(operations, found.waiting),
    snapshot: rowFrom<SnapshotRow>(snapshots, found.snapshot),
    newestRun: rowFrom<IncarnationRow>(incarnations, found.newestRun),
    isOwed: found.isOwed ?? undefined,
    named: {
      operation: rowFrom<OperationRow>(operations, found.namedOperation),
      repeat: rowFrom<OperationRow>(operations, found.repeat),
      snapshot: rowFrom<SnapshotRow>(snapshots, found.namedSnapshot),
      run: rowFrom<IncarnationRow>(incarnations, found.namedRun),
    },
  };
}

function raise(): never {
  throw new Error("a view was read without its sandbox");
}
