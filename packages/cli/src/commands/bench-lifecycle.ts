/**
 * `torpor bench lifecycle [--rounds N] [--crowd N] [--starts-at-once N] [--warm-pool N]
 * [--json FILE] [--svg FILE] [--compare FILE]`: docs/benchmarks.md.
 */
import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import {
  benchDir,
  compareLifecycle,
  lifecycleRows,
  measureLifecycle,
  plotLifecycle,
  readLifecycle,
} from "@torpor/bench";
import { prepareLocalPrograms } from "@torpor/programs";
import { imagesDir, interrupted } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { numberFrom } from "../shape.ts";
import { asText, REPORT_OPTIONS } from "./bench-report.ts";
import { buildImage } from "./image.ts";

const TEMPLATE = "code-interpreter";

export async function benchLifecycle(context: CommandContext): Promise<number> {
  const { args, root, write } = context;
  const { values } = parseArgs({
    args,
    options: {
      rounds: { type: "string", default: "5" },
      crowd: { type: "string", default: "20" },
      "starts-at-once": { type: "string", default: "2" },
      "warm-pool": { type: "string", default: "0" },
      ...REPORT_OPTIONS,
    },
  });
  const options = {
    rounds: numberFrom("--rounds", values.rounds, 1, 1_000),
    crowd: numberFrom("--crowd", values.crowd, 0, 200),
    startsAtOnce: numberFrom("--starts-at-once", values["starts-at-once"], 1, 64),
    warmPool: numberFrom("--warm-pool", values["warm-pool"], 0, 64),
  };
  const earlier = values.compare === undefined ? undefined : await readLifecycle(values.compare);
  const signal = interrupted();
  await buildImage(context, signal);
  await prepareLocalPrograms();
  const place = { root, dir: benchDir(root, "lifecycle"), imagesDir: imagesDir(root) };
  const what = { ...place, template: TEMPLATE, signal, say: write };
  const result = await measureLifecycle({ ...what, ...options });
  for (const rows of lifecycleRows(result)) write(asText(rows));
  if (earlier !== undefined) write(asText(compareLifecycle(result, earlier)));
  if (values.json !== undefined)
    await writeFile(values.json, `${JSON.stringify(result, undefined, 2)}\n`);
  if (values.svg !== undefined) await writeFile(values.svg, plotLifecycle(result));
  return 0;
}
