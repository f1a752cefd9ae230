/**
 * `torpor bench crowd [--creates N] [--room N] [--starts-at-once N] [--json]`: the claims of
 * docs/placement.md about concurrent creates, on two hosts with real virtual machines.
 */
import { parseArgs } from "node:util";
import { prepareLocalPrograms } from "@torpor/programs";
import { type CrowdMeasure, measureCrowd } from "../bench/crowd.ts";
import { imagesDir, interrupted } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { numberFrom } from "../shape.ts";
import { table } from "../table.ts";
import { buildImage } from "./image.ts";

export async function benchCrowd(context: CommandContext): Promise<number> {
  const { args, root, write } = context;
  const { values } = parseArgs({
    args,
    options: {
      creates: { type: "string", default: "30" },
      room: { type: "string", default: "14" },
      "starts-at-once": { type: "string", default: "1" },
      json: { type: "boolean", default: false },
    },
  });
  const creates = numberFrom("--creates", values.creates, 1, 200);
  const room = numberFrom("--room", values.room, 2, 64);
  const startsAtOncePerHost = numberFrom("--starts-at-once", values["starts-at-once"], 1, 16);
  const signal = interrupted();
  const say = values.json ? () => {} : write;
  await buildImage({ ...context, write: say }, signal);
  await prepareLocalPrograms();
  const options = { root, imagesDir: imagesDir(root), creates, room, startsAtOncePerHost, signal };
  const measured = await measureCrowd({ ...options, say });
  write(values.json ? JSON.stringify(measured, undefined, 2) : tableOf(measured));
  return 0;
}

function tableOf(measured: CrowdMeasure): string {
  const { creates, room, startsAtOnce, rowMs, crowdMs, ratio, running, told, failed } = measured;
  const seconds = (ms: number) => `${(ms / 1000).toFixed(1)} s`;
  const rows = [
    [`${room} in a row`, seconds(rowMs)],
    [`${creates} at once, ${startsAtOnce} started at once: until ${room} run`, seconds(crowdMs)],
    [`that, to a row divided by ${startsAtOnce}`, ratio.toFixed(2)],
    ["running in the end", String(running)],
    ["told to come again, or that there is no room", String(told)],
    ["failed otherwise", String(failed.length)],
  ];
  return [table(["", "MEASURED"], rows), ...new Set(failed)].join("\n");
}
