import { DATA_PLANE_HEADERS } from "@torpor/contracts";

/** Where a request goes, and with which headers added. */
export interface Target {
  url: URL;
  headers: Record<string, string>;
  /** Differs when the sandbox has moved on: another run, or another host. */
  run: string;
}

/**
 * One run of a sandbox, at the host that it is on; undefined when the host's address is none. Of a
 * host that registered with one before they were checked, no other's sandboxes suffer for it.
 */
export function targetOf(
  run: { sandboxId: string; epoch: number; dataPlaneUrl: string },
  port: number,
  hostKey: string,
): Target | undefined {
  const url = URL.parse(run.dataPlaneUrl);
  if (url === null) return undefined;
  return {
    url,
    headers: {
      [DATA_PLANE_HEADERS.sandboxId]: run.sandboxId,
      [DATA_PLANE_HEADERS.epoch]: String(run.epoch),
      [DATA_PLANE_HEADERS.port]: String(port),
      [DATA_PLANE_HEADERS.hostKey]: hostKey,
    },
    run: `${run.sandboxId} ${run.epoch} ${run.dataPlaneUrl}`,
  };
}
