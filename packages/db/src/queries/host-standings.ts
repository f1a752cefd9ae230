/** Hosts, each with all that is known beside its row. */
import type { Database } from "../client.ts";
import { asOfOneMoment } from "../transaction.ts";
import { type DrainProgress, listDrainProgress } from "./drain-progress.ts";
import { type FindingRow, listFindings } from "./findings.ts";
import type { HostRow } from "./host-events.ts";
import { countSandboxes, findHost, listHosts } from "./hosts.ts";
import { compareImages, type HostTemplates } from "./templates.ts";

export interface HostStanding {
  host: HostRow;
  /** How many sandboxes lie on it, by state. */
  sandboxes: Record<string, number>;
  /** The newest one. */
  drain: DrainProgress | undefined;
  findings: FindingRow[];
  templates: HostTemplates;
}

/** The host, or without an id all that are not retired, as of one moment: a drain that ends meanwhile is not done on a host that is still draining. */
export async function readHostStandings(db: Database, hostId?: string): Promise<HostStanding[]> {
  return await asOfOneMoment(db, async (tx) => {
    const hosts = hostId === undefined ? await listHosts(tx) : [await findHost(tx, hostId)].filter((host) => host !== undefined);
    const ids = hosts.map(({ id }) => id);
    const findings = Map.groupBy(await listFindings(tx, ids), (finding) => finding.hostId);
    const counts = await countSandboxes(tx, ids);
    const drains = await listDrainProgress(tx, ids);
    const templates = await compareImages(tx, hosts);
    return hosts.map((host) => ({
      host,
      sandboxes: counts.get(host.id) ?? {},
      drain: drains.get(host.id),
      findings: findings.get(host.id) ?? [],
      templates: templates.get(host.id) ?? { held: [], mismatched: [] },
    }));
  });
}
