/**
 * `torpor bench soak [--minutes N] [--json FILE]`: docs/benchmarks.md. Returns 1 when a number
 * grows, or there are too few samples.
 */
import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { benchDir, hasGrown, measureSoak, soakRows } from "@torpor/bench";
import { interrupted } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { numberFrom } from "../shape.ts";
import { asText } from "./bench-report.ts";

const SAMPLE_SECONDS = 10;

export async function benchSoak({ root, args, write }: CommandContext): Promise<number> {
  const { values } = parseArgs({
    args,
    options: { minutes: { type: "string", default: "30" }, json: { type: "string" } },
  });
  const result = await measureSoak({
    root,
    dir: benchDir(root, "soak"),
    minutes: numberFrom("--minutes", values.minutes, 1, 100_000),
    sampleSeconds: SAMPLE_SECONDS,
    signal: interrupted(),
    say: write,
  });
  const told = (counts: Record<string, number>) =>
    Object.entries(counts).map(([kind, count]) => `${count} × ${kind}`);
  write(`\nRequests: ${told(result.requests).join(", ")}`);
  write(`Failed: ${told(result.failed).join(", ") || "none"}`);
  write(asText(soakRows(result.series)));
  if (values.json !== undefined)
    await writeFile(values.json, `${JSON.stringify(result, undefined, 2)}\n`);
  const isSound =
    Object.keys(result.failed).length === 0 && Object.keys(result.requests).length > 0;
  return isSound && !hasGrown(result.series) ? 0 : 1;
}
