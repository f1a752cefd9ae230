/** What the benchmarks of the control plane have in common: their options, and how they report. */
import { writeFile } from "node:fs/promises";
import {
  type BenchResult,
  compare,
  comparisonRows,
  EDGES,
  plotOf,
  readResult,
  type Rows,
  rowsOf,
} from "@torpor/bench";
import { numberFrom } from "../shape.ts";
import { table } from "../table.ts";

export const REPORT_OPTIONS = {
  json: { type: "string" },
  svg: { type: "string" },
  compare: { type: "string" },
} as const;

export interface ReportFiles {
  json?: string | undefined;
  svg?: string | undefined;
  compare?: string | undefined;
}

/** Before anything is measured: throws when the file to compare with is none. */
export async function earlierResult(
  { compare: file }: ReportFiles,
  benchmark: string,
): Promise<BenchResult | undefined> {
  return file === undefined ? undefined : await readResult(file, benchmark);
}

export async function writeReport(
  result: BenchResult,
  earlier: BenchResult | undefined,
  files: ReportFiles,
  write: (line: string) => void,
): Promise<void> {
  for (const rows of rowsOf(result)) write(asText(rows));
  if (earlier !== undefined) write(asText(comparisonRows(compare(result, earlier))));
  if (files.json !== undefined)
    await writeFile(files.json, `${JSON.stringify(result, undefined, 2)}\n`);
  if (files.svg !== undefined) await writeFile(files.svg, plotOf(result));
}

export const asText = ({ title, head, rows }: Rows) => `\n${title}\n${table(head, rows)}`;

export function numbersFrom(name: string, text: string, least: number, most: number): number[] {
  return text.split(",").map((one) => numberFrom(name, one, least, most));
}

/** Throws a line that says which there are. */
export function choicesFrom<T extends string>(name: string, text: string, all: readonly T[]): T[] {
  return text.split(",").map((one) => {
    const choice = all.find((known) => known === one);
    if (choice === undefined)
      throw new Error(`${name} has no "${one}"; there are ${all.join(", ")}`);
    return choice;
  });
}

export function edgeFrom(text: string): (typeof EDGES)[number] {
  const [edge = "loopback", ...more] = choicesFrom("--edge", text, EDGES);
  if (more.length > 0) throw new Error(`--edge is one of ${EDGES.join(", ")}`);
  return edge;
}
