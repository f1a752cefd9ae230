import { claimPort, tryClaimPort } from "@torpor/service";
import type { FleetOptions } from "./plan.ts";

/** One listener serves the agents of all sandboxes. */
const EVERY_ADDRESS = "0.0.0.0";

type GivenPorts = Pick<FleetOptions, "gatewayPort" | "edgePort">;

/**
 * Claims the ports of the API and the edge until this process ends; 0 becomes a free port. Throws a
 * line that names a taken port and its setting.
 */
export async function claimGivenPorts({
  gatewayPort,
  edgePort,
}: GivenPorts): Promise<[api: number, edge: number]> {
  return [
    await claimGiven(
      gatewayPort,
      "127.0.0.1",
      "the API: end that program, or set TORPOR_GATEWAY_PORT",
    ),
    await claimGiven(
      edgePort,
      EVERY_ADDRESS,
      "the sandboxes: end that program, or set TORPOR_EDGE_PORT",
    ),
  ];
}

async function claimGiven(port: number, host: string, purpose: string): Promise<number> {
  const claimed = port === 0 ? await claimPort() : await tryClaimPort(port, host);
  const where = host === EVERY_ADDRESS ? "some address of this machine" : host;
  if (claimed === undefined)
    throw new Error(`port ${port} of ${where} is taken, and is needed for ${purpose}`);
  return claimed.port;
}
