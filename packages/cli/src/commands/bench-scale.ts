/**
 * `torpor bench scale [--hosts N] [--sandboxes-per-host N] [--steps LIST] [--clients LIST]
 * [--seconds N] [--schedulers N] [--edge domain|loopback] [--json FILE] [--svg FILE]
 * [--compare FILE]`: docs/benchmarks.md.
 */
import { measureScale } from "@torpor/bench";
import type { CommandContext } from "../main.ts";
import { runBench, TIMING } from "./bench-options.ts";

const DEFAULTS = {
  hosts: "20",
  "sandboxes-per-host": "10000",
  seconds: "5",
  quiet: "10",
  "warm-up": "10",
  steps: "idle,closed,create-delete,get,list,list-status",
  clients: "1,32",
  schedulers: "2",
  edge: "domain",
};

export async function benchScale(context: CommandContext): Promise<number> {
  await runBench(context, "scale", DEFAULTS, async (options, given) => {
    const { hosts, schedulers, edge, seconds, steps, clients } = options;
    return await measureScale({
      ...given,
      ...TIMING,
      seconds,
      steps,
      clients,
      warmUpSeconds: options["warm-up"],
      quietSeconds: options.quiet,
      sandboxesPerHost: options["sandboxes-per-host"],
      shape: { hosts, schedulers, gateways: 1, edge, isDurable: true },
    });
  });
  return 0;
}
