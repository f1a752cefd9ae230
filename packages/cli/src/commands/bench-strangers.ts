/**
 * `torpor bench strangers [--seconds N] [--json]`: the effect of attacks by others on one tenant,
 * in a fleet of simulated hosts (docs/threat-model.md).
 */
import { parseArgs } from "node:util";
import { prepareLocalPrograms } from "@torpor/programs";
import { type AttackMeasure, measureStrangers } from "../bench/strangers.ts";
import { imagesDir, interrupted } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { numberFrom } from "../shape.ts";
import { table } from "../table.ts";
import { buildImage } from "./image.ts";

export async function benchStrangers(context: CommandContext): Promise<number> {
  const { args, root, write } = context;
  const { values } = parseArgs({
    args,
    options: {
      seconds: { type: "string", default: "10" },
      json: { type: "boolean", default: false },
    },
  });
  const seconds = numberFrom("--seconds", values.seconds, 1, 600);
  const signal = interrupted();
  const say = values.json ? () => {} : write;
  await buildImage({ ...context, write: say }, signal);
  await prepareLocalPrograms();
  const measures = await measureStrangers({
    root,
    imagesDir: imagesDir(root),
    seconds,
    signal,
    say,
  });
  write(values.json ? JSON.stringify(measures, undefined, 2) : tableOf(measures));
  return 0;
}

function tableOf(measures: AttackMeasure[]): string {
  const ms = (value: number) => value.toFixed(1);
  const ratio = (attacked: number, quiet: number) => (attacked / quiet).toFixed(2);
  const rows = measures.map(({ attack, quiet, attacked, leasesLost }) => [
    attack,
    ms(quiet.getMs),
    ms(attacked.getMs),
    ratio(attacked.getMs, quiet.getMs),
    ms(quiet.transitionMs),
    ms(attacked.transitionMs),
    ratio(attacked.transitionMs, quiet.transitionMs),
    String(leasesLost),
  ]);
  const head = [
    "MEDIAN (ms)",
    "GET",
    "ATTACKED",
    "RATIO",
    "TRANSITION",
    "ATTACKED",
    "RATIO",
    "LEASES LOST",
  ];
  return table(head, rows);
}
