/**
 * `torpor bench data-plane [--seconds N] [--clients LIST] [--json FILE] [--svg FILE]
 * [--compare FILE]`: docs/benchmarks.md.
 */
import { measureDataPlane } from "@torpor/bench";
import type { CommandContext } from "../main.ts";
import { runBench } from "./bench-options.ts";

const DEFAULTS = { seconds: "3", clients: "1,32" };
/** Statements are not counted: a request through the edge takes one. */
const TIMING = { warmSeconds: 1, countSeconds: 0 };

export async function benchDataPlane(context: CommandContext): Promise<number> {
  await runBench(context, "data-plane", DEFAULTS, async (options, given) => {
    return await measureDataPlane({ ...given, ...TIMING, ...options });
  });
  return 0;
}
