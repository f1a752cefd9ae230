/**
 * Reports of the benchmarks: for people, for programs, as a picture, and beside an earlier result.
 */
import { writeFile } from "node:fs/promises";
import {
  type BenchResult,
  compare,
  comparisonRows,
  plotOf,
  readResult,
  type Rows,
  rowsOf,
} from "@torpor/bench";
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

/** Called before the measurement: throws if the file to compare with is no result. */
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
