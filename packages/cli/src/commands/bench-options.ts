/**
 * The options of the control-plane benchmarks: each is parsed in the same way for every command.
 */
import { parseArgs } from "node:util";
import { type BenchResult, benchDir, CONTROL_PLANE_STEPS, EDGES } from "@torpor/bench";
import { interrupted } from "../local.ts";
import type { CommandContext } from "../main.ts";
import { numberFrom } from "../shape.ts";
import { earlierResult, REPORT_OPTIONS, type ReportFiles, writeReport } from "./bench-report.ts";

const MAX_CLIENTS = 2_000;

/** Each parser throws a line that names the option. */
const OPTIONS = {
  seconds: number(1, 3_600),
  "warm-up": number(0, 3_600),
  quiet: number(0, 3_600),
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

/** Parses only the options that `defaults` names, and the files for the report. */
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

/** Seconds of load before each window, and of counting after it. */
export const TIMING = { warmSeconds: 2, countSeconds: 2 };

/** Values that every benchmark gets besides its options. */
interface Given {
  root: string;
  dir: string;
  signal: AbortSignal;
  say: (line: string) => void;
}

/** Parses the options, measures, and reports; beside an earlier result if one is named. */
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

/** Throws a line with the choices. */
function choicesFrom<T extends string>(name: string, text: string, all: readonly T[]): T[] {
  return text.split(",").map((one) => {
    const choice = all.find((known) => known === one);
    if (choice === undefined)
      throw new Error(`${name} has no "${one}"; there are ${all.join(", ")}`);
    return choice;
  });
}
