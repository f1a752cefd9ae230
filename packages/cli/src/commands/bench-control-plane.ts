/**
 * `torpor bench control-plane [--seconds N] [--steps LIST] [--clients LIST] [--hosts N]
 * [--schedulers N] [--gateways N] [--edge loopback|domain] [--json FILE] [--svg FILE]
 * [--compare FILE]`: docs/benchmarks.md.
 */
import { parseArgs } from "node:util";
import { benchDir, CONTROL_PLANE_STEPS, measureControlPlane } from "@torpor/bench";
import { interrupted } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { numberFrom } from "../shape.ts";
import {
  choicesFrom,
  earlierResult,
  edgeFrom,
  numbersFrom,
  REPORT_OPTIONS,
  writeReport,
} from "./bench-report.ts";

export const MAX_CLIENTS = 2_000;

export async function benchControlPlane({ root, args, write }: CommandContext): Promise<number> {
  const { values } = parseArgs({
    args,
    options: {
      seconds: { type: "string", default: "5" },
      "warm-up": { type: "string", default: "10" },
      steps: { type: "string", default: CONTROL_PLANE_STEPS.join(",") },
      clients: { type: "string", default: "1,8,32,128" },
      accepts: { type: "string", default: "400" },
      hosts: { type: "string", default: "20" },
      schedulers: { type: "string", default: "2" },
      gateways: { type: "string", default: "1" },
      edge: { type: "string", default: "loopback" },
      ...REPORT_OPTIONS,
    },
  });
  const options = {
    seconds: numberFrom("--seconds", values.seconds, 1, 3_600),
    warmUpSeconds: numberFrom("--warm-up", values["warm-up"], 0, 3_600),
    warmSeconds: 2,
    countSeconds: 2,
    steps: choicesFrom("--steps", values.steps, CONTROL_PLANE_STEPS),
    clients: numbersFrom("--clients", values.clients, 1, MAX_CLIENTS),
    accepts: numberFrom("--accepts", values.accepts, 1, 100_000),
    shape: {
      hosts: numberFrom("--hosts", values.hosts, 1, 1_000),
      schedulers: numberFrom("--schedulers", values.schedulers, 1, 16),
      gateways: numberFrom("--gateways", values.gateways, 1, 16),
      edge: edgeFrom(values.edge),
      isDurable: true,
    },
  };
  const earlier = await earlierResult(values, "control-plane");
  const place = { root, dir: benchDir(root, "control-plane") };
  const result = await measureControlPlane({
    ...place,
    ...options,
    signal: interrupted(),
    say: write,
  });
  await writeReport(result, earlier, values, write);
  return 0;
}
