import { claimPort, tryClaimPort } from "@torpor/service";
import type { FleetOptions } from "./plan.ts";

type GivenPorts = Pick<FleetOptions, "gatewayPort" | "edgePort">;

/** The ports of the API and of the sandboxes, this process's until it ends; a 0 becomes a free one. Throws a line that names the one that is taken, and its setting. */
export async function claimGivenPorts({ gatewayPort, edgePort }: GivenPorts): Promise<[api: number, edge: number]> {
  return [
    await claimGiven(gatewayPort, "the API: end that program, or set TORPOR_GATEWAY_PORT"),
    await claimGiven(edgePort, "the sandboxes: end that program, or set TORPOR_EDGE_PORT"),
  ];
}

async function claimGiven(port: number, purpose: string): Promise<number> {
  const claimed = port === 0 ? await claimPort() : await tryClaimPort(port);
  if (claimed === undefined) throw new Error(`port ${port} of 127.0.0.1 is taken, and is needed for ${purpose}`);
  return claimed.port;
}
