/**
 * `torpor bench peers [--seconds N] [--clients LIST] [--json FILE] [--svg FILE] [--compare FILE]`:
 * docs/benchmarks.md.
 */
import { measurePeers } from "@torpor/bench";
import type { CommandContext } from "../main.ts";
import { runBench, TIMING } from "./bench-options.ts";

const SHAPE = { hosts: 20, gateways: 1, schedulers: 2, edge: "loopback", isDurable: true } as const;
const DEFAULTS = { seconds: "5", "warm-up": "10", clients: "1,32" };

export async function benchPeers(context: CommandContext): Promise<number> {
  await runBench(context, "peers", DEFAULTS, async (options, given) => {
    const { "warm-up": warmUpSeconds, ...others } = options;
    return await measurePeers({ ...given, ...TIMING, ...others, warmUpSeconds, shape: SHAPE });
  });
  return 0;
}
