/**
 * `torpor bench scale [--hosts N] [--sandboxes-per-host N] [--steps LIST] [--clients LIST]
 * [--seconds N] [--schedulers N] [--edge domain|loopback] [--json FILE] [--svg FILE]
 * [--compare FILE]`: docs/benchmarks.md.
 */
import { parseArgs } from "node:util";
import { benchDir, CONTROL_PLANE_STEPS, measureScale } from "@torpor/bench";
import { interrupted } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { numberFrom } from "../shape.ts";
import { MAX_CLIENTS } from "./bench-control-plane.ts";
import {
  choicesFrom,
  earlierResult,
  edgeFrom,
  numbersFrom,
  REPORT_OPTIONS,
  writeReport,
} from "./bench-report.ts";

export async function benchScale({ root, args, write }: CommandContext): Promise<number> {
  const { values } = parseArgs({
    args,
    options: {
      hosts: { type: "string", default: "20" },
      "sandboxes-per-host": { type: "string", default: "10000" },
      seconds: { type: "string", default: "5" },
      settle: { type: "string", default: "10" },
      "warm-up": { type: "string", default: "10" },
      steps: { type: "string", default: "idle,closed,create-delete,get,list,list-status" },
      clients: { type: "string", default: "1,32" },
      schedulers: { type: "string", default: "2" },
      edge: { type: "string", default: "domain" },
      ...REPORT_OPTIONS,
    },
  });
  const options = {
    seconds: numberFrom("--seconds", values.seconds, 1, 3_600),
    settleSeconds: numberFrom("--settle", values.settle, 0, 3_600),
    warmUpSeconds: numberFrom("--warm-up", values["warm-up"], 0, 3_600),
    warmSeconds: 2,
    countSeconds: 2,
    steps: choicesFrom("--steps", values.steps, CONTROL_PLANE_STEPS),
    clients: numbersFrom("--clients", values.clients, 1, MAX_CLIENTS),
    sandboxesPerHost: numberFrom(
      "--sandboxes-per-host",
      values["sandboxes-per-host"],
      1,
      1_000_000,
    ),
    shape: {
      hosts: numberFrom("--hosts", values.hosts, 1, 1_000),
      schedulers: numberFrom("--schedulers", values.schedulers, 1, 16),
      gateways: 1,
      edge: edgeFrom(values.edge),
      isDurable: true,
    },
  };
  const earlier = await earlierResult(values, "scale");
  const place = { root, dir: benchDir(root, "scale") };
  const result = await measureScale({ ...place, ...options, signal: interrupted(), say: write });
  await writeReport(result, earlier, values, write);
  return 0;
}
