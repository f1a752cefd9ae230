/** Facts about sandboxes that a gateway's edge reads in advance, to listen for their previews. */
import type { HostId, SandboxId } from "@torpor/contracts";
import { and, asc, eq, gt, inArray, sql } from "drizzle-orm";
import type { Tx } from "../../database.ts";
import { hosts, sandboxes } from "../../schema.ts";
import type { SandboxRow } from "./sandbox-row.ts";

export type EdgeSandbox = Pick<
  SandboxRow,
  "id" | "edgeAddress" | "settledState" | "epoch" | "autoResume"
> & {
  host: { id: HostId; dataPlaneUrl: string; ticketKey: string | null } | null;
};

const isAlive = sql`${sandboxes.state} NOT IN ('deleting', 'deleted')`;

function edgeQuery(db: Tx) {
  const { id, edgeAddress, settledState, epoch, autoResume } = sandboxes;
  return db
    .select({
      id,
      edgeAddress,
      settledState,
      epoch,
      autoResume,
      // Null when the sandbox is on no host.
      host: { id: hosts.id, dataPlaneUrl: hosts.dataPlaneUrl, ticketKey: hosts.ticketKey },
    })
    .from(sandboxes)
    .leftJoin(hosts, eq(hosts.id, sandboxes.hostId));
}

/** The living sandboxes among `ids`. */
export async function findEdgeSandboxes(db: Tx, ids: SandboxId[]): Promise<EdgeSandbox[]> {
  if (ids.length === 0) return [];
  return await edgeQuery(db).where(and(inArray(sandboxes.id, ids), isAlive));
}

/** A page of running sandboxes, by id. The index `sandboxes_running` holds only these. */
export async function listRunningAtEdge(
  db: Tx,
  { limit, afterId }: { limit: number; afterId?: SandboxId | undefined },
): Promise<EdgeSandbox[]> {
  return await edgeQuery(db)
    .where(
      and(
        sql`${sandboxes.settledState} = 'running'`,
        isAlive,
        gt(sandboxes.id, sql`${afterId ?? ""}`),
      ),
    )
    .orderBy(asc(sandboxes.id))
    .limit(limit);
}
