/**
 * The options of the benchmarks of a control plane: each is read in one way, wherever it is one.
 */
import { parseArgs } from "node:util";
import { type BenchResult, benchDir, CONTROL_PLANE_STEPS, EDGES } from "@torpor/bench";
import { interrupted } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { numberFrom } from "../shape.ts";
import { earlierResult, REPORT_OPTIONS, type ReportFiles, writeReport } from "./bench-report.ts";

const MAX_CLIENTS = 2_000;

/** Each throws a line that names the option when it cannot be read. */
const OPTIONS = {
  seconds: number(1, 3_600),
  "warm-up": number(0, 3_600),
  settle: number(0, 3_600),
  steps: (name: string, text: string) => choicesFrom(name, text, CONTROL_PLANE_STEPS),
  clients: (name: string, text: string) =>
    text.split(",").map((one) => numberFrom(name, one, 1, MAX_CLIENTS)),
  accepts: number(1, 100_000),
  hosts: number(1, 1_000),
  "sandboxes-per-host": number(1, 1_000_000),
  schedulers: number(1, 16),
  gateways: number(1, 16),
  edge: (name: string, text: string) => {
    const [edge = "loopback", ...more] = choicesFrom(name, text, EDGES);
    if (more.length > 0) throw new Error(`${name} is one of ${EDGES.join(", ")}`);
    return edge;
  },
} as const;
type OptionName = keyof typeof OPTIONS;
type Read<K extends OptionName> = { [N in K]: ReturnType<(typeof OPTIONS)[N]> };

function number(least: number, most: number) {
  return (name: string, text: string) => numberFrom(name, text, least, most);
}

/** Those that `defaults` names, and no others; and the files that a report goes to. */
export function readOptions<K extends OptionName>(
  args: string[],
  defaults: Readonly<Record<K, string>>,
): { options: Read<K>; files: ReportFiles } {
  const names = Object.keys(defaults) as K[];
  const known = Object.fromEntries(
    names.map((name) => [name, { type: "string" as const, default: defaults[name] }]),
  );
  const { values } = parseArgs({ args, options: { ...known, ...REPORT_OPTIONS } });
  const said = values as Record<string, string | undefined>;
  const read = names.map((name) => [
    name,
    OPTIONS[name](`--${name}`, said[name] ?? defaults[name]),
  ]);
  return { options: Object.fromEntries(read) as Read<K>, files: values };
}

/** What the windows of all have: seconds of the load before each, and of counting after it. */
export const TIMING = { warmSeconds: 2, countSeconds: 2 };

/** What every benchmark is given beside its options. */
interface Given {
  root: string;
  dir: string;
  signal: AbortSignal;
  say: (line: string) => void;
}

/** Reads the options, measures, and reports: beside an earlier result where one is named. */
export async function runBench<K extends OptionName>(
  { root, args, write }: CommandContext,
  benchmark: string,
  defaults: Readonly<Record<K, string>>,
  measure: (options: Read<K>, given: Given) => Promise<BenchResult>,
): Promise<BenchResult> {
  const { options, files } = readOptions(args, defaults);
  const earlier = await earlierResult(files, benchmark);
  const dir = benchDir(root, benchmark);
  const result = await measure(options, { root, dir, signal: interrupted(), say: write });
  await writeReport(result, earlier, files, write);
  return result;
}

/** Throws a line that says which there are. */
function choicesFrom<T extends string>(name: string, text: string, all: readonly T[]): T[] {
  return text.split(",").map((one) => {
    const choice = all.find((known) => known === one);
    if (choice === undefined)
      throw new Error(`${name} has no "${one}"; there are ${all.join(", ")}`);
    return choice;
  });
}
