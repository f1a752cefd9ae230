/**
 * `torpor bench control-plane [--seconds N] [--steps LIST] [--clients LIST] [--hosts N]
 * [--schedulers N] [--gateways N] [--edge loopback|domain] [--json FILE] [--svg FILE]
 * [--compare FILE]`: docs/benchmarks.md.
 */
import { CONTROL_PLANE_STEPS, measureControlPlane } from "@torpor/bench";
import type { CommandContext } from "../main.ts";
import { runBench, TIMING } from "./bench-options.ts";

const DEFAULTS = {
  seconds: "5",
  "warm-up": "10",
  steps: CONTROL_PLANE_STEPS.join(","),
  clients: "1,8,32,128",
  accepts: "400",
  hosts: "20",
  schedulers: "2",
  gateways: "1",
  edge: "loopback",
};

export async function benchControlPlane(context: CommandContext): Promise<number> {
  await runBench(context, "control-plane", DEFAULTS, async (options, given) => {
    const { hosts, schedulers, gateways, edge, "warm-up": warmUpSeconds, ...others } = options;
    const shape = { hosts, schedulers, gateways, edge, isDurable: true };
    return await measureControlPlane({ ...given, ...TIMING, ...others, warmUpSeconds, shape });
  });
  return 0;
}
