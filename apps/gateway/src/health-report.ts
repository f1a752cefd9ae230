/** The health of this gateway, for its own health port and for `GET /health` of the API. */
import { withTimeLimit } from "@torpor/service";
import type { Dependencies } from "./deps.ts";

const PING_LIMIT_MS = 1_000;

interface HealthReport {
  /**
   * `draining`: the gateway is about to stop; send no request here. `degraded`: the database or the
   * bus is away.
   */
  status: "ok" | "degraded" | "draining";
  database: "connected" | "unreachable";
  bus: "connected" | "disconnected";
}

/** Never rejects. */
export async function healthReport(
  deps: Pick<Dependencies, "pingDatabase" | "busConnected" | "draining">,
): Promise<HealthReport> {
  const hasDatabase = await answersInTime(deps.pingDatabase());
  const hasBus = deps.busConnected();
  return {
    status: deps.draining.aborted ? "draining" : hasDatabase && hasBus ? "ok" : "degraded",
    database: hasDatabase ? "connected" : "unreachable",
    bus: hasBus ? "connected" : "disconnected",
  };
}

async function answersInTime(ping: Promise<void>): Promise<boolean> {
  return await withTimeLimit(ping, PING_LIMIT_MS, "the ping").then(
    () => true,
    () => false,
  );
}
