/**
 * `torpor bench peers [--seconds N] [--clients LIST] [--json FILE] [--svg FILE] [--compare FILE]`:
 * docs/benchmarks.md.
 */
import { parseArgs } from "node:util";
import { benchDir, measurePeers } from "@torpor/bench";
import { interrupted } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { numberFrom } from "../shape.ts";
import { MAX_CLIENTS } from "./bench-control-plane.ts";
import { earlierResult, numbersFrom, REPORT_OPTIONS, writeReport } from "./bench-report.ts";

const SHAPE = { hosts: 20, gateways: 1, schedulers: 2, edge: "loopback", isDurable: true } as const;

export async function benchPeers({ root, args, write }: CommandContext): Promise<number> {
  const { values } = parseArgs({
    args,
    options: {
      seconds: { type: "string", default: "5" },
      "warm-up": { type: "string", default: "10" },
      clients: { type: "string", default: "1,32" },
      ...REPORT_OPTIONS,
    },
  });
  const options = {
    seconds: numberFrom("--seconds", values.seconds, 1, 3_600),
    warmUpSeconds: numberFrom("--warm-up", values["warm-up"], 0, 3_600),
    warmSeconds: 2,
    countSeconds: 2,
    clients: numbersFrom("--clients", values.clients, 1, MAX_CLIENTS),
    shape: SHAPE,
  };
  const earlier = await earlierResult(values, "peers");
  const place = { root, dir: benchDir(root, "peers") };
  const result = await measurePeers({ ...place, ...options, signal: interrupted(), say: write });
  await writeReport(result, earlier, values, write);
  return 0;
}
