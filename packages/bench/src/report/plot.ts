/** A result as a picture: rates, latencies and processor time of each step, as an SVG. */
import { PARTS_TOLD } from "../measure/cpu.ts";
import { type BenchResult, several, type StepResult } from "./result.ts";

const WIDTH = 860;
const LABELS = 150;
const VALUES = 70;
const ROW = 20;
const PANEL_HEAD = 46;
const MARGIN = 16;
/** Offset beside the longest title. */
const LEGEND = 20;
const COLORS = [
  "#2b6cb0",
  "#2f855a",
  "#b7791f",
  "#805ad5",
  "#a0aec0",
  "#cbd5e0",
  "#c53030",
  "#319795",
  "#4a5568",
];

export interface Bar {
  label: string;
  /** Segments from left to right. */
  parts: { value: number; color: string }[];
  text: string;
}

export interface Panel {
  title: string;
  /** Each power of ten has the same width: for values far apart. */
  isLogarithmic: boolean;
  bars: Bar[];
  legend: { name: string; color: string }[];
}

export function plotOf(result: BenchResult): string {
  return draw(result, [rates(result.steps), latencies(result.steps), cpu(result.steps)]);
}

/** Panels below each other, under a title with the benchmark, machine and date. */
export function draw(result: Omit<BenchResult, "steps">, panels: readonly Panel[]): string {
  const shown = panels.filter(({ bars }) => bars.length > 0);
  const heights = shown.map(({ bars }) => PANEL_HEAD + bars.length * ROW);
  const tops = heights.map((_, at) =>
    heights.slice(0, at).reduce((sum, height) => sum + height, 2 * MARGIN + ROW),
  );
  const height = (tops.at(-1) ?? 0) + (heights.at(-1) ?? 0) + MARGIN;
  const { benchmark, commit, machine, measuredAt } = result;
  const about = [commit, `${machine.cpus} × ${machine.model}`, measuredAt.slice(0, 10)];
  const title = `${benchmark}: ${about.filter((text) => text !== undefined).join(", ")}`;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${height}" fill="white"/>`,
    text(MARGIN, MARGIN + 10, title, 'font-size="14" font-weight="bold"'),
    ...shown.map((panel, at) => drawPanel(panel, tops[at] ?? 0)),
    "</svg>\n",
  ].join("\n");
}

function rates(steps: StepResult[]): Panel {
  const bars = steps
    .filter(({ clients }) => clients > 0)
    .map(({ name, perSecond, unit }) => ({
      label: name,
      parts: [{ value: perSecond, color: color(0) }],
      text: `${short(perSecond)} ${several(unit)}/s`,
    }));
  return { title: "Per second", isLogarithmic: true, bars, legend: [] };
}

/** Segments from zero to the median, and on to the 99th percentile. */
function latencies(steps: StepResult[]): Panel {
  const bars = steps.flatMap(({ name, latencies: all }) => {
    const latency = Object.values(all)[0];
    if (latency === undefined || latency.count === 0) return [];
    const { p50Ms, p99Ms } = latency;
    const parts = [
      { value: p50Ms, color: color(0) },
      { value: p99Ms - p50Ms, color: color(4) },
    ];
    return [{ label: name, parts, text: `${short(p50Ms)} / ${short(p99Ms)}` }];
  });
  const legend = [
    { name: "median", color: color(0) },
    { name: "99th percentile", color: color(4) },
  ];
  return { title: "Milliseconds", isLogarithmic: true, bars, legend };
}

function cpu(steps: StepResult[]): Panel {
  const names = PARTS_TOLD.filter((part) =>
    steps.some(({ cpuMsPerUnit }) => cpuMsPerUnit?.[part] !== undefined),
  );
  const bars = steps.flatMap(({ name, cpuMsPerUnit, unit }) => {
    if (cpuMsPerUnit === undefined) return [];
    const parts = names.map((part, at) => ({ value: cpuMsPerUnit[part] ?? 0, color: color(at) }));
    const sum = parts.reduce((all, { value }) => all + value, 0);
    return [{ label: name, parts, text: `${short(sum)} ms/${unit}` }];
  });
  const legend = names.map((name, at) => ({ name, color: color(at) }));
  return { title: "Processor time per unit", isLogarithmic: false, bars, legend };
}

function drawPanel({ title, isLogarithmic, bars, legend }: Panel, top: number): string {
  const least = 0.1;
  const sums = bars.map(({ parts }) => parts.reduce((sum, { value }) => sum + value, 0));
  const most = Math.max(10 * least, ...sums);
  const width = WIDTH - LABELS - VALUES - 2 * MARGIN - 40;
  const place = (value: number) => {
    if (!isLogarithmic) return (value / most) * width;
    return (Math.log10(Math.max(value, least) / least) / Math.log10(most / least)) * width;
  };
  const left = MARGIN + LABELS;
  const rows = bars.map(({ label, parts, text: said }, at) => {
    const y = top + PANEL_HEAD - 12 + at * ROW;
    let sum = 0;
    const drawn = parts.map(({ value, color: fill }) => {
      const from = sum === 0 ? 0 : place(sum);
      sum += value;
      const wide = Math.max(0, place(sum) - from);
      return `<rect x="${(left + from).toFixed(1)}" y="${y}" width="${wide.toFixed(1)}" height="${ROW - 6}" fill="${fill}"/>`;
    });
    const after = left + place(sum) + 6;
    return [text(MARGIN, y + 11, label), ...drawn, text(after, y + 11, said)].join("\n");
  });
  const scale = isLogarithmic ? `${title} (logarithmic)` : title;
  const entries = legend.map(({ name, color: fill }, at) => {
    const x = left + LEGEND + at * Math.min(95, (WIDTH - left - LEGEND - MARGIN) / legend.length);
    return `<rect x="${x}" y="${top + 6}" width="10" height="10" fill="${fill}"/>${text(x + 14, top + 15, name)}`;
  });
  return [text(MARGIN, top + 15, scale, 'font-weight="bold"'), ...entries, ...rows].join("\n");
}

export const color = (at: number) => COLORS[at] ?? "#000000";
export const short = (value: number) => value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
const ESCAPES: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;" };
const text = (x: number, y: number, said: string, attributes = "") =>
  `<text x="${x.toFixed(1)}" y="${y}" ${attributes}>${said.replaceAll(/[&<>]/g, (sign) => ESCAPES[sign] ?? "")}</text>`;
