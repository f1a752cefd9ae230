/**
 * `torpor bench guest [--rounds N] [--against IMAGES_DIR] [--json]`: the claims of
 * docs/sandbox-api.md about the cost of a guest, on real virtual machines of the image of this
 * checkout, and optionally beside another image (say, of an older checkout).
 */
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { median } from "@torpor/bench";
import { prepareLocalPrograms } from "@torpor/programs";
import { GUEST_MEASURES, type GuestMeasure, measureGuests } from "../bench/guest.ts";
import { imagesDir, interrupted } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { numberFrom } from "../shape.ts";
import { table } from "../table.ts";
import { buildImage } from "./image.ts";

export async function benchGuest(context: CommandContext): Promise<number> {
  const { args, root, write } = context;
  const { values } = parseArgs({
    args,
    options: {
      rounds: { type: "string", default: "3" },
      against: { type: "string" },
      json: { type: "boolean", default: false },
    },
  });
  const rounds = numberFrom("--rounds", values.rounds, 1, 100);
  const signal = interrupted();
  await buildImage(values.json ? { ...context, write: () => {} } : context, signal);
  await prepareLocalPrograms();
  const dirs = [
    imagesDir(root),
    ...(values.against === undefined ? [] : [resolve(values.against)]),
  ];
  const [here = [], other] = await measureGuests(root, dirs, rounds, signal);
  write(values.json ? JSON.stringify({ here, other }, undefined, 2) : tableOf(here, other));
  return 0;
}

/** Medians, and the ratio of this image to the other. */
function tableOf(here: GuestMeasure[], other: GuestMeasure[] | undefined): string {
  const rows = (Object.keys(GUEST_MEASURES) as (keyof GuestMeasure)[]).map((name) => {
    const own = median(here.map((measure) => measure[name]));
    if (other === undefined) return [GUEST_MEASURES[name], own.toFixed(1)];
    const against = median(other.map((measure) => measure[name]));
    return [GUEST_MEASURES[name], own.toFixed(1), against.toFixed(1), (own / against).toFixed(2)];
  });
  return table(["MEDIAN (ms)", "HERE", ...(other === undefined ? [] : ["OTHER", "RATIO"])], rows);
}
