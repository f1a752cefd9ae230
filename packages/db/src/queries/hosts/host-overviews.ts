/** Hosts, each with everything that is known beside its row. */
import type { HostId } from "@torpor/contracts";
import type { Database, Tx } from "../../database.ts";
import { readSnapshot } from "../../transaction.ts";
import { type DrainProgress, listDrainProgress } from "../drains/drain-progress.ts";
import { compareImages, type HostTemplates } from "../templates/templates.ts";
import { type FindingSummary, summarizeFindings } from "./findings.ts";
import type { HostRow } from "./host-events.ts";
import { countSandboxes, findHost, listHosts } from "./hosts.ts";

export interface HostOverview {
  host: HostRow;
  /** Number of sandboxes resident on the host, by state. */
  sandboxes: Record<string, number>;
  /** The newest drain. */
  drain: DrainProgress | undefined;
  findings: FindingSummary;
  templates: HostTemplates;
}

/** Per host; all findings are in a list of their own. */
const FINDINGS_SHOWN = 100;

export async function findHostOverview(
  db: Database,
  hostId: HostId,
): Promise<HostOverview | undefined> {
  const read = async (tx: Tx) => [await findHost(tx, hostId)].filter((host) => host !== undefined);
  return (await overviewsOf(db, read))[0];
}

/** Hosts after `afterId` that are not retired, by id. */
export async function listHostOverviews(
  db: Database,
  limit: number,
  afterId?: HostId,
): Promise<HostOverview[]> {
  return await overviewsOf(db, async (tx) => await listHosts(tx, { limit, afterId }));
}

/** Reads one snapshot of the database, so that drains and hosts agree. */
async function overviewsOf(
  db: Database,
  read: (tx: Tx) => Promise<HostRow[]>,
): Promise<HostOverview[]> {
  return await readSnapshot(db, async (tx) => {
    const hosts = await read(tx);
    const ids = hosts.map(({ id }) => id);
    const findings = await summarizeFindings(tx, ids, FINDINGS_SHOWN);
    const counts = await countSandboxes(tx, ids);
    const drains = await listDrainProgress(tx, ids);
    const templates = await compareImages(tx, hosts);
    return hosts.map((host) => ({
      host,
      sandboxes: counts.get(host.id) ?? {},
      drain: drains.get(host.id),
      findings: findings.get(host.id) ?? { count: 0, shown: [] },
      templates: templates.get(host.id) ?? { held: [], mismatched: [] },
    }));
  });
}
